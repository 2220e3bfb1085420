"""What a vPool needs to survive the loss of its registry: exports of it while it runs, and its rebuilding from the buckets.

While a node runs, ``NamespaceExporter`` keeps copies of the registry's content in the vPool's shared bucket, full ones now and
then and what has changed since at a bounded age. ``plan_recovery`` looks into the buckets (only here are they listed: this is a
repair tool) and says what can be had again, of the newest export (``load_newest``) or of a backup (``load_backup``); ``rebuilt``
and ``write_registry`` make the registry of it. The room calls the registry, the volume driver's names, the backend and the
engine's codecs; nobody on the data path calls it.
"""

from recovery.exporter import ExporterSettings, ExportStatus, NamespaceExporter
from recovery.files import FileFinding
from recovery.loading import Namespace, load_backup, load_newest
from recovery.planning import LogFinding, RecoveryPlan, Tell, only_vpool, plan_recovery, vpools_in
from recovery.rebuilding import rebuilt, write_registry

__all__ = [
    "ExportStatus", "ExporterSettings", "FileFinding", "LogFinding", "Namespace", "NamespaceExporter", "RecoveryPlan", "Tell",
    "load_backup", "load_newest", "only_vpool", "plan_recovery", "rebuilt", "vpools_in", "write_registry",
]  # fmt: skip
