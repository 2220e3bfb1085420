"""What a vPool needs to survive the loss of its registry: exports of it while it runs, and its rebuilding from the buckets.

While a node runs, ``NamespaceExporter`` keeps copies of the registry's content in the vPool's shared bucket, full ones now and
then and what has changed since at a bounded age. ``plan_recovery`` looks into the buckets (only here are they listed: this is a
repair tool) or at a backup, and says what can be had again; ``carry_out`` writes the registry of it. The room calls the registry,
the volume driver's names, the backend and the engine's codec; nobody on the data path calls it.
"""

from recovery.exporter import ExporterSettings, ExportStatus, NamespaceExporter

__all__ = ["ExportStatus", "ExporterSettings", "NamespaceExporter"]
