"""The steps of pipelines, one function for each task of a DAG.

Every step takes a `Run`, finds its inputs in the run's workspace, and leaves its record there; nothing else is passed
between steps. Their order is in `hpe_tasks.pipeline.requantize` and `hpe_tasks.pipeline.retrain`. Heavy libraries are
imported inside the bodies, because DAG files import these modules.
"""

from hpe_tasks.pipeline.steps.diagnosing import diagnose_layers as diagnose_layers
from hpe_tasks.pipeline.steps.inputs import fetch_checkpoint as fetch_checkpoint
from hpe_tasks.pipeline.steps.inputs import fetch_dataset as fetch_dataset
from hpe_tasks.pipeline.steps.inputs import preflight as preflight
from hpe_tasks.pipeline.steps.inputs import validate_dataset as validate_dataset
from hpe_tasks.pipeline.steps.ladder import choose_recipe as choose_recipe
from hpe_tasks.pipeline.steps.measuring import check_fp32 as check_fp32
from hpe_tasks.pipeline.steps.measuring import evaluate_fp32 as evaluate_fp32
from hpe_tasks.pipeline.steps.publishing import promote as promote
from hpe_tasks.pipeline.steps.publishing import publish as publish
from hpe_tasks.pipeline.steps.publishing import smoke_test_lambda as smoke_test_lambda
from hpe_tasks.pipeline.steps.quantizing import compare_accuracy as compare_accuracy
from hpe_tasks.pipeline.steps.quantizing import evaluate_quantized as evaluate_quantized
from hpe_tasks.pipeline.steps.quantizing import export_onnx as export_onnx
from hpe_tasks.pipeline.steps.quantizing import gate as gate
from hpe_tasks.pipeline.steps.quantizing import quantize as quantize
from hpe_tasks.pipeline.steps.registering import announce_checkpoint as announce_checkpoint
from hpe_tasks.pipeline.steps.registering import register_checkpoint as register_checkpoint
from hpe_tasks.pipeline.steps.reporting import report as report
from hpe_tasks.pipeline.steps.retraining import compare_checkpoints as compare_checkpoints
from hpe_tasks.pipeline.steps.retraining import evaluate_checkpoint as evaluate_checkpoint
from hpe_tasks.pipeline.steps.retraining import evaluate_parent as evaluate_parent
from hpe_tasks.pipeline.steps.retraining import fetch_start as fetch_start
from hpe_tasks.pipeline.steps.retraining import find_live as find_live
from hpe_tasks.pipeline.steps.retraining import train as train
