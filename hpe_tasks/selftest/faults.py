"""All faults, in the order of a run."""

from __future__ import annotations

from hpe_tasks.selftest import accuracy_faults, checkpoint_faults, data_faults, export_faults, release_faults
from hpe_tasks.selftest.fault import Fault

_VALIDATION = "validation of the data set"
_DRAW = "draw of the calibration images"
_FLOOR = "FP32 floor and diagnosis"
_SMOKE = "comparison with golden images (smoke test)"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "calibration_leak",
        "An evaluation image is listed among those of the calibration",
        f"{_VALIDATION}: splits share no image",
        data_faults.calibration_leak,
    ),
    Fault(
        "copied_leak",
        "A copy of an evaluation image, under another name, among those of the calibration",
        f"{_DRAW}: files are compared",
        data_faults.copied_leak,
    ),
    Fault(
        "near_duplicate_leak",
        "An evaluation image, scaled and saved anew, among those of the calibration",
        f"{_DRAW}: perceptual hashes are compared",
        data_faults.near_duplicate_leak,
    ),
    Fault(
        "truncated_data",
        "The data set's last images are missing, and one is cut off",
        f"{_VALIDATION}: every image is decoded",
        data_faults.truncated_data,
    ),
    Fault(
        "too_few_persons",
        "The evaluation split has lost most of its images",
        f"{_VALIDATION}: dataset.min_persons",
        data_faults.too_few_persons,
    ),
    Fault(
        "swapped_sides",
        "The checkpoint's left and right joints are exchanged",
        _FLOOR,
        checkpoint_faults.swapped_sides,
    ),
    Fault("bgr", "The checkpoint was trained on blue, green, red", _FLOOR, checkpoint_faults.bgr_checkpoint),
    Fault(
        "wrong_normalization",
        "The checkpoint is shown other pixel values than it was trained on",
        _FLOOR,
        checkpoint_faults.wrong_normalization,
    ),
    Fault(
        "float_activation",
        "One activation of the file was left float",
        "gate: arithmetic that runs in int8",
        export_faults.float_activation,
    ),
    Fault(
        "saturated_kernels",
        "Weights take the whole of 8 bits: sums clip without VNNI",
        "gate: proof of the int8 kernels' sums",
        export_faults.saturated_kernels,
    ),
    Fault(
        "dead_joint",
        "A joint's channel of the file is zero",
        "gate: accuracy lost by any group of joints",
        accuracy_faults.dead_joint,
    ),
    Fault(
        "worse_wrists",
        "The file is better on average and worse at the wrists",
        "gate: accuracy lost by any group of joints",
        accuracy_faults.worse_wrists,
    ),
    Fault(
        "lucky_sample",
        "A file that loses too much, judged on a few images on which it loses little",
        "gate: interval of the loss (inconclusive)",
        accuracy_faults.lucky_sample,
    ),
    Fault(
        "other_protocol",
        "FP32 was measured with the flip test, the file without",
        "gate: protocol fingerprints",
        accuracy_faults.other_protocol,
    ),
    Fault(
        "unmeasured_file",
        "The file that would be published is not the one that was measured",
        "publishing: digest of the measured file",
        release_faults.unmeasured_file,
    ),
    Fault(
        "unsigned_publication",
        "A signature is required, and there is no key",
        "publishing: destination.require_signature",
        release_faults.unsigned_publication,
    ),
    Fault(
        "corrupted_blob",
        "The model's blob in the registry has other bytes",
        "promotion: every blob is verified",
        release_faults.corrupted_blob,
    ),
    Fault(
        "unsigned_manifest",
        "The manifest is not signed",
        "function: HPE_PUBLIC_KEY",
        release_faults.unsigned_manifest,
    ),
    Fault(
        "other_model_in_package",
        "The package holds another file than its manifest describes",
        "function: digest of the model",
        release_faults.other_model_in_package,
    ),
    Fault(
        "function_feeds_bgr",
        "The function feeds blue, green, red; measured was red, green, blue",
        _SMOKE,
        release_faults.function_feeds_bgr,
    ),
    Fault(
        "function_normalizes_wrongly",
        "The function normalizes otherwise than measured",
        _SMOKE,
        release_faults.function_normalizes_wrongly,
    ),
)
