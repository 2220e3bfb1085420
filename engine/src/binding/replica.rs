//! Batches of a log, and the replicas that are made of them.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::Data;
use crate::replica::Replica;
use crate::tail::Tail;

#[pyclass(name = "Batch", frozen, module = "engine._native")]
pub(super) struct PyBatch {
    #[pyo3(get)]
    first_lsn: u64,
    #[pyo3(get)]
    last_lsn: u64,
    #[pyo3(get)]
    data: Py<PyBytes>,
}

#[pymethods]
impl PyBatch {
    fn __repr__(&self, py: Python) -> PyResult<String> {
        let bytes = self.data.bind(py).as_bytes().len();
        Ok(format!(
            "Batch(first_lsn={}, last_lsn={}, bytes={bytes})",
            self.first_lsn, self.last_lsn
        ))
    }
}

/// Puts a batch together in a bytes object.
pub(super) fn batch(py: Python, tail: Option<Tail>) -> PyResult<Option<PyBatch>> {
    let Some(tail) = tail else { return Ok(None) };
    let data = PyBytes::new_with(py, tail.bytes(), |out| Ok(py.detach(|| tail.fill(out))?))?;
    Ok(Some(PyBatch {
        first_lsn: tail.first_lsn,
        last_lsn: tail.last_lsn,
        data: data.unbind(),
    }))
}

#[pyclass(name = "Replica", frozen, module = "engine._native")]
pub(super) struct PyReplica(pub(super) Arc<Replica>);

#[pymethods]
impl PyReplica {
    #[getter]
    fn first_lsn(&self, py: Python) -> PyResult<u64> {
        Ok(py.detach(|| self.0.stats())?.first_lsn)
    }
    #[getter]
    fn end_lsn(&self, py: Python) -> PyResult<u64> {
        Ok(py.detach(|| self.0.stats())?.end_lsn)
    }
    #[getter]
    fn synced_lsn(&self, py: Python) -> PyResult<u64> {
        Ok(py.detach(|| self.0.stats())?.synced_lsn)
    }
    #[getter]
    fn bytes(&self, py: Python) -> PyResult<u64> {
        Ok(py.detach(|| self.0.stats())?.bytes)
    }
    #[getter]
    fn damage(&self, py: Python) -> PyResult<Option<String>> {
        Ok(py.detach(|| self.0.damage())?)
    }

    fn take(&self, py: Python, data: &Bound<PyAny>) -> PyResult<u64> {
        let data = Data::of(data)?;
        let data = data.bytes();
        Ok(py.detach(|| self.0.take(data))?)
    }

    fn sync(&self, py: Python) -> PyResult<()> {
        Ok(py.detach(|| self.0.sync())?)
    }

    fn read(&self, py: Python, first_lsn: u64, bytes_max: usize) -> PyResult<Option<PyBatch>> {
        let tail = py.detach(|| self.0.read(first_lsn, bytes_max))?;
        batch(py, tail)
    }

    fn chain(&self, py: Python, lsn: u64) -> PyResult<Option<u64>> {
        Ok(py.detach(|| self.0.chain(lsn))?)
    }

    fn cut(&self, py: Python, last_lsn: u64) -> PyResult<()> {
        Ok(py.detach(|| self.0.cut(last_lsn))?)
    }

    fn trim(&self, py: Python, through_lsn: u64) -> PyResult<()> {
        Ok(py.detach(|| self.0.trim(through_lsn))?)
    }

    fn close(&self, py: Python) {
        py.detach(|| self.0.close());
    }
}
