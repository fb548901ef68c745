"""Published models: what is there, who serves it, and whether it is what was published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.api.shown import Shown
from hpe_tasks.config.environment import Settings
from hpe_tasks.contract.names import MANIFEST
from hpe_tasks.contract.public_keys import read_public_keys
from hpe_tasks.errors import ConfigError, DigestError
from hpe_tasks.pipeline.provenance import user
from hpe_tasks.records.release import PromotedModel
from hpe_tasks.registry.channel_keys import ChannelKeys, keys_at_hand
from hpe_tasks.registry.channels import ChannelPointer
from hpe_tasks.registry.manifest import MODEL_ROLE, ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry, StoredVersion
from hpe_tasks.registry.signing import signer_among
from hpe_tasks.registry.stored_versions import StoredManifest
from hpe_tasks.storage.s3 import S3Location, make_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from rich.console import RenderableType

    from hpe_tasks.verification import VerifiedVersion

MODEL_FILE = "model.onnx"


@dataclass(frozen=True)
class Verified:
    """What was found of a version that is whole.

    Attributes:
        manifest_sha256: Of its manifest's bytes, as channels point to it.
        files: How many files were looked at.
        signed: Whether its manifest has a signature; with a public key, one of that key.
    """

    name: str
    version: str
    manifest_sha256: str
    files: int
    signed: bool


class Registry(Shown):
    """The models below one address. What it reads is verified by digest.

    A version may be named by itself, or by the channel that serves it.

    Args:
        address: `s3://bucket/prefix`.
        client: An S3 client; by default one of the usual AWS variables and files.

    Raises:
        ConfigError: It is not such an address.
    """

    def __init__(self, address: str, *, client: S3Client | None = None) -> None:
        self._location = S3Location.parse(address)
        self._client = client or make_client()
        self._registry = ModelRegistry(self._client, self._location, actor=user())

    def __repr__(self) -> str:
        return f"Registry({str(self._location)!r})"

    @property
    def address(self) -> str:
        """`s3://bucket/prefix`."""
        return str(self._location)

    def models(self) -> tuple[str, ...]:
        """Names of the models, sorted.

        Raises:
            AccessError: The bucket does not exist, or it refuses the credentials.
        """
        return self._registry.models()

    def versions(self, name: str) -> tuple[StoredVersion, ...]:
        """The versions of a model, latest first, with the channels that serve them."""
        return self._registry.versions(name)

    def channels(self, name: str) -> tuple[str, ...]:
        """Names of a model's channels, sorted."""
        return self._registry.channels(name)

    def channel(self, name: str, channel: str) -> ChannelPointer:
        """What a channel serves, what it served before, and who moved it; raises AccessError where there is none."""
        return self._registry.show(name, channel)

    def manifest(self, name: str, version: str | None = None, *, channel: str | None = None) -> ModelManifest:
        """Everything that is known of a version: files, serving, figures, gate, and where it comes from.

        Raises:
            AccessError: There is no such version or channel.
            DigestError: The manifest is damaged.
        """
        return self._stored(name, version, channel).manifest

    def fetch(
        self,
        name: str,
        version: str | None = None,
        *,
        channel: str | None = None,
        folder: str | Path,
        roles: Iterable[str] = (MODEL_ROLE,),
    ) -> Path:
        """Bring files of a version here; each appears whole and verified, or not at all.

        Args:
            name: Of the model.
            version: 16 hexadecimal digits.
            channel: In place of a version: the one that this channel serves.
            folder: Where to. The model is called model.onnx, the manifest manifest.json, other files by their roles.
            roles: Files of the manifest, such as `model` and `encodings`.

        Returns:
            The folder.

        Raises:
            BadInputError: The version has no file of such a role.
            DigestError: A file in the registry is damaged.
            StorageError: A file cannot be written here.
        """
        from hpe_tasks.storage.files import write_atomically

        stored, out = self._stored(name, version, channel), Path(folder)
        for role in roles:
            self._registry.download(stored.manifest, role, out / (MODEL_FILE if role == MODEL_ROLE else role))
        write_atomically(out / MANIFEST, stored.data)
        return out

    def verify(
        self, name: str, version: str | None = None, *, channel: str | None = None, public_key: str | None = None
    ) -> Verified:
        """Look whether a version is whole, and signed by whom it should be.

        Args:
            name: Of the model.
            version: 16 hexadecimal digits.
            channel: In place of a version: the one that this channel serves.
            public_key: In base64, as `hpe public-key` prints it, or two with a comma between: the manifest must be
                signed with the private key of one.

        Raises:
            DigestError: The manifest or a file is damaged or missing, or the signature is missing or of another key.
        """
        version, sha256 = self._version(name, version, channel)
        stored = self._registry.verify(name, version, sha256=sha256)
        signature = self._registry.signature(name, version)
        keys = read_public_keys(public_key, called="public_key")
        if keys and (signature is None or signer_among(keys, stored.data, signature) is None):
            what = "is not signed" if signature is None else "was signed with another key, or changed since"
            raise DigestError(
                f"The manifest of version {version} of {name!r} in {self.address} {what}.",
                hint="Publish the model again with the signing key.",
            )
        return Verified(name, version, stored.sha256, len(stored.manifest.files), signature is not None)

    def recheck(
        self,
        name: str,
        version: str | None = None,
        *,
        channel: str | None = None,
        public_key: str | None = None,
        dataset: str | Path | None = None,
    ) -> VerifiedVersion:
        """Check everything that can be checked of a version again, figures, intervals and gate, as `hpe verify` does.

        Args:
            name: Of the model.
            version: 16 hexadecimal digits.
            channel: In place of a version: the one that this channel serves.
            public_key: In base64, one or two with a comma between; by default those of HPE_PUBLIC_KEY.
            dataset: Where the version's data set is, as `dataset.source`: what was found is matched with it again.

        Returns:
            Every check with its outcome; `failed` holds those that found something wrong.

        Raises:
            AccessError: There is no such version or channel.
            ConfigError: Neither or both of version and channel are given.
            DatasetError: The data set is another than that of the version, or cannot be used.
        """
        from hpe_tasks.verification import verify_version

        if (version is None) == (channel is None):
            raise _which(name)
        settings = Settings.from_environment()
        return verify_version(
            self._client,
            self._location,
            name,
            version=version,
            channel=channel,
            public_keys=read_public_keys(public_key, called="public_key") or read_public_keys(settings.public_key),
            dataset=None if dataset is None else str(dataset),
            cache=settings.cache,
        )

    def promote(self, name: str, version: str, channel: str) -> PromotedModel:
        """Let a channel serve a version that is in the registry and whole; see `hpe channel promote`.

        As there, its pointer is signed with the key that HPE_SIGNING_KEY names.

        Raises:
            AccessError: There is no such version.
            ConfigError: The channel is signed, and there is no key.
            DigestError: One of its files is damaged or missing.
            ChannelConflictError: Another publisher moved the channel meanwhile.
        """
        return self._registry.promote(name, version, channel, keys=self._keys())

    def rollback(self, name: str, channel: str) -> ChannelPointer:
        """Let a channel serve what it served before; again, and it goes back one further.

        Its pointer is signed with the key that HPE_SIGNING_KEY names.

        Raises:
            BadInputError: It served nothing before; or it is not signed, and there is a key.
            ConfigError: The channel is signed, and there is no key.
            ChannelConflictError: Another publisher moved the channel meanwhile.
        """
        return self._registry.rollback(name, channel, keys=self._keys())

    def _keys(self) -> ChannelKeys:
        places = Settings.from_environment()
        return keys_at_hand(places.read_signing_key(), places.public_key)

    def _stored(self, name: str, version: str | None, channel: str | None) -> StoredManifest:
        version, sha256 = self._version(name, version, channel)
        return self._registry.stored(name, version, sha256=sha256)

    def _version(self, name: str, version: str | None, channel: str | None) -> tuple[str, str | None]:
        """A version, and the digest that its manifest must have, where a channel says it."""
        if version is not None and channel is None:
            return version, None
        if channel is not None and version is None:
            pointer = self._registry.show(name, channel)
            return pointer.version, pointer.manifest_sha256
        raise _which(name)

    def _repr_html_(self) -> str:
        from hpe_tasks.report.fragments import registry_html

        return registry_html(self.address, {name: self.versions(name) for name in self.models()})

    def _table(self) -> RenderableType:
        from rich.table import Table

        table = Table("model", "version", "published", "served by", title=self.address)
        for name in self.models():
            for one in self.versions(name):
                table.add_row(name, one.version, f"{one.published_at:%Y-%m-%d %H:%M} UTC", ", ".join(one.channels))
        return table


def _which(name: str) -> ConfigError:
    return ConfigError(f"Which version of {name!r} is meant?", hint="Give a version or a channel, one of the two.")
