//! Surveys and plain checksums, for tools that look at everything.

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{errors, plan, Data, PyVolume};
use crate::survey::{Survey, SurveyedSco};
use crate::types::{Uuid, CLUSTER};

type Ranges = Vec<(u64, u64)>;

fn in_bytes(clusters: &[(u64, u64)]) -> Ranges {
    let bytes = CLUSTER as u64;
    clusters
        .iter()
        .map(|(first, count)| (first * bytes, count * bytes))
        .collect()
}

#[pyclass(name = "SurveyedSco", frozen, module = "engine._native")]
pub(super) struct PySurveyedSco(SurveyedSco, Uuid);

#[pymethods]
impl PySurveyedSco {
    #[getter]
    fn number(&self) -> u64 {
        self.0.number
    }
    #[getter]
    fn origin<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.1)
    }
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.at.epoch
    }
    #[getter]
    fn first_slot(&self) -> u32 {
        self.0.first_slot
    }
    #[getter]
    fn slots(&self) -> u32 {
        self.0.slots
    }
    #[getter]
    fn clusters(&self) -> u32 {
        self.0.clusters
    }
    #[getter]
    fn is_local(&self) -> bool {
        self.0.is_local
    }
}

#[pyclass(name = "Survey", frozen, module = "engine._native")]
pub(super) struct PySurvey(Mutex<Survey>);

#[pymethods]
impl PySurvey {
    #[new]
    #[pyo3(signature = (volume, offset, end, *, clusters_max))]
    fn new(volume: &PyVolume, offset: u64, end: u64, clusters_max: usize) -> PyResult<PySurvey> {
        if offset > end {
            return Err(errors::Invalid::new_err(format!(
                "a range ends at or behind its beginning, not {offset} to {end}"
            )));
        }
        let bytes = CLUSTER as u64;
        let (first, end) = (offset / bytes, end.div_ceil(bytes));
        let survey = Survey::new(&volume.0, first, end, clusters_max);
        Ok(PySurvey(Mutex::new(survey)))
    }

    #[getter]
    fn position(&self) -> u64 {
        self.0.lock().position().saturating_mul(CLUSTER as u64)
    }
    #[getter]
    fn clusters(&self) -> usize {
        self.0.lock().clusters()
    }
    #[getter]
    fn extents(&self) -> Ranges {
        in_bytes(self.0.lock().extents())
    }

    fn step<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match py.detach(|| self.0.lock().step())? {
            Some(unplanned) => Ok(Some(plan(py, unplanned)?)),
            None => Ok(None),
        }
    }

    fn scos(&self, py: Python) -> PyResult<Vec<PySurveyedSco>> {
        let scos = py.detach(|| self.0.lock().scos())?;
        let scos = scos
            .into_iter()
            .map(|sco| PySurveyedSco(sco, sco.at.origin));
        Ok(scos.collect())
    }

    fn ranges(&self, py: Python, number: u64) -> Ranges {
        py.detach(|| in_bytes(&self.0.lock().ranges(number)))
    }

    fn check(
        &self,
        py: Python,
        number: u64,
        first_slot: u32,
        data: &Bound<PyAny>,
    ) -> PyResult<Ranges> {
        let data = Data::of(data)?;
        let data = data.bytes();
        Ok(py.detach(|| in_bytes(&self.0.lock().check(number, first_slot, data))))
    }

    fn check_local(&self, py: Python, number: u64) -> PyResult<Option<Ranges>> {
        let wrong = py.detach(|| self.0.lock().check_local(number))?;
        Ok(wrong.map(|wrong| in_bytes(&wrong)))
    }
}

#[pyfunction]
#[pyo3(signature = (data, start=0))]
pub(super) fn crc32c(py: Python, data: &Bound<PyAny>, start: u32) -> PyResult<u32> {
    let data = Data::of(data)?;
    let data = data.bytes();
    Ok(py.detach(|| ::crc32c::crc32c_append(start, data)))
}

#[pyfunction]
#[pyo3(signature = (data, seed=0))]
pub(super) fn xxh3(py: Python, data: &Bound<PyAny>, seed: u64) -> PyResult<u64> {
    let data = Data::of(data)?;
    let data = data.bytes();
    Ok(py.detach(|| xxh3_64_with_seed(data, seed)))
}
