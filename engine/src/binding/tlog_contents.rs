//! TLogs for Python to look into: what a rebuilt registry, a verification and an inspection need to know of one.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{Data, PyTlogRef};
use crate::tlog::{self, Tlog, TlogEntry, TlogOp};
use crate::types::TlogRef;

/// A TLog that was read, verified as a whole.
#[pyclass(name = "TlogContents", frozen, module = "engine._native")]
pub struct PyTlogContents(Arc<Tlog>);

#[pyclass(name = "ScoEntry", frozen, get_all, module = "engine._native")]
pub struct PyScoEntry {
    number: u64,
    clusters: u32,
    crc: u32,
}

#[pyclass(name = "TlogRecord", frozen, get_all, module = "engine._native")]
pub struct PyTlogRecord {
    lba: u64,
    clusters: u64,
    /// 0: the clusters read as zeros.
    number: u64,
    slot: u32,
    crcs: Vec<u32>,
}

impl From<&TlogEntry> for PyTlogRecord {
    fn from(entry: &TlogEntry) -> PyTlogRecord {
        match &entry.op {
            TlogOp::Write { number, slot, crcs } => PyTlogRecord {
                lba: entry.lba,
                clusters: crcs.len() as u64,
                number: *number,
                slot: *slot,
                crcs: crcs.clone(),
            },
            TlogOp::Zero { clusters } => PyTlogRecord {
                lba: entry.lba,
                clusters: *clusters,
                number: 0,
                slot: 0,
                crcs: Vec::new(),
            },
        }
    }
}

#[pymethods]
impl PyTlogContents {
    #[getter]
    fn volume<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.header.volume)
    }
    #[getter(r#ref)]
    fn reference(&self) -> PyTlogRef {
        let header = &self.0.header;
        let sco = self.0.scos.first().filter(|_| header.combined);
        PyTlogRef::from(TlogRef {
            epoch: header.epoch,
            number: header.number,
            combined_sco: sco.map_or(0, |sco| sco.number),
            checksum: self.0.checksum,
        })
    }
    #[getter]
    fn previous(&self) -> Option<PyTlogRef> {
        self.0.header.previous.map(PyTlogRef::from)
    }
    #[getter]
    fn first_of_epoch(&self) -> bool {
        self.0.header.first_of_epoch
    }
    #[getter]
    fn first_sco(&self) -> u64 {
        self.0.header.first_sco
    }
    #[getter]
    fn next_sco(&self) -> u64 {
        self.0.header.next_sco
    }
    #[getter]
    fn last_lsn(&self) -> u64 {
        self.0.header.last_lsn
    }
    #[getter]
    fn scos(&self) -> Vec<PyScoEntry> {
        let entry = |sco: &tlog::TlogSco| PyScoEntry {
            number: sco.number,
            clusters: sco.clusters,
            crc: sco.crc,
        };
        self.0.scos.iter().map(entry).collect()
    }
    /// In log order; made anew at each call.
    fn records(&self) -> Vec<PyTlogRecord> {
        self.0.entries.iter().map(PyTlogRecord::from).collect()
    }
}

/// Reads a TLog: an object, alone or combined, or the end of a combined one that holds at least TLog and trailer.
#[pyfunction]
pub fn read_tlog(py: Python, data: &Bound<PyAny>) -> PyResult<PyTlogContents> {
    let data = Data::of(data)?;
    let bytes = data.bytes();
    let tlog = py.detach(|| match tlog::split_combined(bytes) {
        Ok(part) => tlog::decode(part),
        Err(of_combined) => tlog::decode(bytes).map_err(|alone| {
            if bytes.ends_with(b"vPoolCMB") {
                of_combined
            } else {
                alone
            }
        }),
    })?;
    Ok(PyTlogContents(Arc::new(tlog)))
}
