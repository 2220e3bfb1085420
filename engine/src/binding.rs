//! The thin layer under Python: types and errors only. The seam is described in `engine/_native.pyi`.
//!
//! The GIL is released around everything that may wait. A request of one cluster on a volume that nobody else is using
//! does not wait (its pages are in the page cache or on their way there), and keeps it.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::buffer::PyBuffer;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::engine::{Engine, Options};
use crate::error::Error;
use crate::read_cache::CacheKey;
use crate::recovery::{self, Recovery};
use crate::replacement::Replacement;
use crate::request::Plan;
use crate::shipping::{Checkpoint, CheckpointStep, Tlog};
use crate::types::{Fetch, FetchKind, LineageEntry, RootRef, TlogRef, Uuid, CLUSTER, SCO_CLUSTERS};
use crate::volume::{Limits, Reply, Volume, VolumeStats, REQUEST_BYTES_MAX};

mod replica;
mod survey;
mod tlog_contents;

mod errors {
    use pyo3::import_exception;
    import_exception!(vpool.errors, Invalid);
    import_exception!(vpool.errors, NotFound);
    import_exception!(vpool.errors, Conflict);
    import_exception!(vpool.errors, NoSpace);
    import_exception!(vpool.errors, Corrupt);
    import_exception!(vpool.errors, Halted);
    import_exception!(vpool.errors, Internal);
}

create_exception!(
    engine._native,
    WouldBlock,
    PyException,
    "The volume's hard limit, the node's segments or the disk's room is used up: wait for ``Volume.head_committed`` or for room \
     (``EngineStats.full`` says why) and try again. Nothing has changed."
);

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        let message = error.to_string();
        match error {
            Error::WouldBlock => WouldBlock::new_err(message),
            Error::Invalid(_) => errors::Invalid::new_err(message),
            Error::NotFound(_) => errors::NotFound::new_err(message),
            Error::Conflict(_) => errors::Conflict::new_err(message),
            Error::NoSpace(_) => errors::NoSpace::new_err(message),
            Error::Corrupt(_) => errors::Corrupt::new_err(message),
            Error::Halted(_) => errors::Halted::new_err(message),
            Error::Internal(_) => errors::Internal::new_err(message),
        }
    }
}

/// What Python hands in: bytes as they are, another buffer as a copy (its owner may change it meanwhile).
enum Data<'py> {
    Bytes(Bound<'py, PyBytes>),
    Copy(Vec<u8>),
}

impl<'py> Data<'py> {
    fn of(object: &Bound<'py, PyAny>) -> PyResult<Data<'py>> {
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(Data::Bytes(bytes.clone())),
            Err(_) => {
                let buffer = PyBuffer::<u8>::get(object)?;
                Ok(Data::Copy(buffer.to_vec(object.py())?))
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Data::Bytes(bytes) => bytes.as_bytes(),
            Data::Copy(bytes) => bytes,
        }
    }
}

fn uuid(bytes: &[u8]) -> PyResult<Uuid> {
    Uuid::try_from(bytes)
        .map_err(|_| errors::Invalid::new_err(format!("a UUID has 16 bytes, not {}", bytes.len())))
}

#[pyclass(
    name = "TlogRef",
    frozen,
    eq,
    hash,
    from_py_object,
    module = "engine._native"
)]
#[derive(Clone, PartialEq, Eq, Hash)]
struct PyTlogRef {
    #[pyo3(get)]
    epoch: u64,
    #[pyo3(get)]
    number: u64,
    #[pyo3(get)]
    combined_sco: u64,
    #[pyo3(get)]
    checksum: u64,
}

#[pymethods]
impl PyTlogRef {
    #[new]
    fn new(epoch: u64, number: u64, combined_sco: u64, checksum: u64) -> PyTlogRef {
        PyTlogRef {
            epoch,
            number,
            combined_sco,
            checksum,
        }
    }

    fn __repr__(&self) -> String {
        format!(
            "TlogRef(epoch={}, number={}, combined_sco={}, checksum={:#018x})",
            self.epoch, self.number, self.combined_sco, self.checksum
        )
    }
}

impl From<TlogRef> for PyTlogRef {
    fn from(r: TlogRef) -> PyTlogRef {
        PyTlogRef::new(r.epoch, r.number, r.combined_sco, r.checksum)
    }
}

impl From<&PyTlogRef> for TlogRef {
    fn from(r: &PyTlogRef) -> TlogRef {
        TlogRef {
            epoch: r.epoch,
            number: r.number,
            combined_sco: r.combined_sco,
            checksum: r.checksum,
        }
    }
}

#[pyclass(
    name = "RootRef",
    frozen,
    eq,
    hash,
    from_py_object,
    module = "engine._native"
)]
#[derive(Clone, PartialEq, Eq, Hash)]
struct PyRootRef {
    #[pyo3(get)]
    epoch: u64,
    #[pyo3(get)]
    object: u64,
    #[pyo3(get)]
    offset: u32,
    #[pyo3(get)]
    length: u32,
    #[pyo3(get)]
    checksum: u64,
}

#[pymethods]
impl PyRootRef {
    #[new]
    fn new(epoch: u64, object: u64, offset: u32, length: u32, checksum: u64) -> PyRootRef {
        PyRootRef {
            epoch,
            object,
            offset,
            length,
            checksum,
        }
    }

    fn __repr__(&self) -> String {
        format!(
            "RootRef(epoch={}, object={}, offset={}, length={}, checksum={:#018x})",
            self.epoch, self.object, self.offset, self.length, self.checksum
        )
    }
}

impl From<RootRef> for PyRootRef {
    fn from(r: RootRef) -> PyRootRef {
        PyRootRef::new(r.epoch, r.object, r.offset, r.length, r.checksum)
    }
}

impl From<&PyRootRef> for RootRef {
    fn from(r: &PyRootRef) -> RootRef {
        RootRef {
            epoch: r.epoch,
            object: r.object,
            offset: r.offset,
            length: r.length,
            checksum: r.checksum,
        }
    }
}

#[pyclass(name = "LineageEntry", frozen, eq, hash, module = "engine._native")]
#[derive(PartialEq, Eq, Hash)]
struct PyLineageEntry {
    #[pyo3(get)]
    first: u64,
    origin: Uuid,
    #[pyo3(get)]
    epoch: u64,
}

#[pymethods]
impl PyLineageEntry {
    #[new]
    fn new(first: u64, origin: &[u8], epoch: u64) -> PyResult<PyLineageEntry> {
        let origin = uuid(origin)?;
        Ok(PyLineageEntry {
            first,
            origin,
            epoch,
        })
    }

    #[getter]
    fn origin<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.origin)
    }

    fn __repr__(&self) -> String {
        let origin: String = self.origin.iter().map(|b| format!("{b:02x}")).collect();
        format!(
            "LineageEntry(first={}, origin={origin}, epoch={})",
            self.first, self.epoch
        )
    }
}

impl From<LineageEntry> for PyLineageEntry {
    fn from(entry: LineageEntry) -> PyLineageEntry {
        PyLineageEntry {
            first: entry.first,
            origin: entry.origin,
            epoch: entry.epoch,
        }
    }
}

#[pyclass(name = "Miss", frozen, module = "engine._native")]
struct PyMiss(Fetch);

#[pymethods]
impl PyMiss {
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0.kind {
            FetchKind::Sco => "sco",
            FetchKind::Map => "map",
        }
    }
    #[getter]
    fn origin<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.origin)
    }
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch
    }
    #[getter]
    fn number(&self) -> u64 {
        self.0.number
    }
    #[getter]
    fn offset(&self) -> u64 {
        self.0.offset
    }
    #[getter]
    fn length(&self) -> u32 {
        self.0.length
    }

    fn __repr__(&self) -> String {
        format!(
            "Miss(kind={:?}, epoch={}, number={}, offset={}, length={})",
            self.kind(),
            self.0.epoch,
            self.0.number,
            self.0.offset,
            self.0.length
        )
    }
}

#[pyclass(name = "Plan", frozen, module = "engine._native")]
struct PyPlan(Mutex<Option<Box<Plan>>>);

fn used_up() -> PyErr {
    errors::Invalid::new_err("this has been used up already")
}

#[pymethods]
impl PyPlan {
    #[getter]
    fn misses(&self) -> PyResult<Vec<PyMiss>> {
        let plan = self.0.lock();
        let plan = plan.as_ref().ok_or_else(used_up)?;
        Ok(plan.misses().map(|fetch| PyMiss(*fetch)).collect())
    }

    #[pyo3(signature = (index, data, start=None))]
    fn supply(
        &self,
        py: Python,
        index: usize,
        data: &Bound<PyAny>,
        start: Option<u64>,
    ) -> PyResult<()> {
        let data = Data::of(data)?;
        let data = data.bytes();
        py.detach(|| {
            let mut plan = self.0.lock();
            let plan = plan.as_mut().ok_or_else(used_up)?;
            Ok(plan.supply(index, data, start)?)
        })
    }
}

fn plan<'py>(py: Python<'py>, plan: Box<Plan>) -> PyResult<Bound<'py, PyAny>> {
    Ok(Bound::new(py, PyPlan(Mutex::new(Some(plan))))?.into_any())
}

#[pyclass(name = "Sco", frozen, module = "engine._native")]
struct PySco {
    #[pyo3(get)]
    number: u64,
    #[pyo3(get)]
    clusters: u32,
}

#[pymethods]
impl PySco {
    fn __repr__(&self) -> String {
        format!("Sco(number={}, clusters={})", self.number, self.clusters)
    }
}

#[pyclass(name = "Tlog", frozen, module = "engine._native")]
struct PyTlog(Tlog);

#[pymethods]
impl PyTlog {
    #[getter(r#ref)]
    fn reference(&self) -> PyTlogRef {
        self.0.reference.into()
    }
    #[getter]
    fn previous(&self) -> Option<PyTlogRef> {
        self.0.previous.map(PyTlogRef::from)
    }
    #[getter]
    fn scos(&self) -> Vec<PySco> {
        let scos = self.0.scos.iter();
        scos.map(|&(number, clusters)| PySco { number, clusters })
            .collect()
    }
    #[getter]
    fn next_sco(&self) -> u64 {
        self.0.next_sco
    }
    #[getter]
    fn last_lsn(&self) -> u64 {
        self.0.last_lsn
    }
    #[getter]
    fn entry_bytes(&self) -> usize {
        self.0.entry_bytes
    }

    fn encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.0.encode())?;
        Ok(PyBytes::new(py, &bytes))
    }
}

#[pyclass(name = "VolumeStats", frozen, module = "engine._native")]
struct PyVolumeStats(VolumeStats);

macro_rules! getters {
    ($class:ident { $($name:ident: $type:ty),* $(,)? }) => {
        #[pymethods]
        impl $class {
            $(#[getter] fn $name(&self) -> $type { self.0.$name.clone() })*
        }
    };
}

getters!(PyVolumeStats {
    epoch: u64, lsn: u64, durable_lsn: u64, dirty_bytes: u64, sealed_scos: u64, open_clusters: u32,
    oldest_dirty_age_s: f64, unclosed_age_s: f64, next_sco: u64, next_tlog: u64, writes: u64, reads: u64, bytes_written: u64,
    bytes_read: u64, read_cache_hits: u64, misses: u64, halted: Option<String>,
});

#[pyclass(name = "EngineStats", frozen, get_all, module = "engine._native")]
struct PyEngineStats {
    segments: usize,
    segments_free: usize,
    segments_max: usize,
    map_cache_bytes: usize,
    read_cache_bytes: u64,
    read_cache_used_bytes: u64,
    read_cache_failed: Option<String>,
    full: Vec<String>,
    map_failure: Option<String>,
    map_set_aside: Option<String>,
}

#[pyclass(name = "Checkpoint", frozen, module = "engine._native")]
struct PyCheckpoint {
    tlog: TlogRef,
    checkpoint: Mutex<Checkpoint>,
}

#[pymethods]
impl PyCheckpoint {
    #[getter]
    fn tlog(&self) -> PyTlogRef {
        self.tlog.into()
    }

    fn step<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let step = py.detach(|| self.checkpoint.lock().step())?;
        match step {
            CheckpointStep::Need(fetches) => {
                let misses = fetches.into_iter().map(|f| Py::new(py, PyMiss(f)));
                let misses = misses.collect::<PyResult<Vec<_>>>()?;
                Ok(PyList::new(py, misses)?.into_any())
            }
            CheckpointStep::Object { number, bytes } => {
                let object = (number, PyBytes::new(py, &bytes));
                Ok(object.into_pyobject(py)?.into_any())
            }
            CheckpointStep::Done(root) => Ok(Bound::new(py, PyRootRef::from(root))?.into_any()),
        }
    }

    fn supply(&self, py: Python, index: usize, data: &Bound<PyAny>) -> PyResult<()> {
        let data = Data::of(data)?;
        let data = data.bytes();
        Ok(py.detach(|| self.checkpoint.lock().supply(index, data))?)
    }
}

#[pyclass(name = "Recovery", frozen, module = "engine._native")]
struct PyRecovery(Mutex<Option<Recovery>>);

impl PyRecovery {
    fn with<T>(&self, look: impl FnOnce(&Recovery) -> T) -> PyResult<T> {
        self.0.lock().as_ref().map(look).ok_or_else(used_up)
    }
}

#[pymethods]
impl PyRecovery {
    #[getter]
    fn map_lost(&self) -> PyResult<bool> {
        self.with(Recovery::map_lost)
    }
    #[getter]
    fn tail_clusters(&self) -> PyResult<u64> {
        self.with(Recovery::tail_clusters)
    }
    #[getter]
    fn tail_segments(&self) -> PyResult<u64> {
        self.with(Recovery::tail_segments)
    }
    #[getter]
    fn tail_lsn(&self) -> PyResult<u64> {
        self.with(Recovery::tail_lsn)
    }
    #[getter]
    fn damage(&self) -> PyResult<Option<String>> {
        self.with(|recovery| recovery.damage().map(str::to_owned))
    }

    fn load_checkpoint(
        &self,
        py: Python,
        root: &PyRootRef,
        root_bytes: &Bound<PyAny>,
    ) -> PyResult<()> {
        let root_bytes = Data::of(root_bytes)?;
        let root_bytes = root_bytes.bytes();
        let root = root.into();
        py.detach(|| {
            let mut recovery = self.0.lock();
            let recovery = recovery.as_mut().ok_or_else(used_up)?;
            Ok(recovery.load_checkpoint(root, root_bytes)?)
        })
    }

    fn apply_tlog(
        &self,
        py: Python,
        r#ref: &PyTlogRef,
        data: &Bound<PyAny>,
    ) -> PyResult<Option<PyTlogRef>> {
        let data = Data::of(data)?;
        let data = data.bytes();
        let reference = r#ref.into();
        py.detach(|| {
            let mut recovery = self.0.lock();
            let recovery = recovery.as_mut().ok_or_else(used_up)?;
            Ok(recovery.apply_tlog(reference, data)?.map(PyTlogRef::from))
        })
    }

    #[pyo3(signature = (epoch, *, soft_bytes, hard_bytes, event_token, accept_loss=false))]
    fn open(
        &self,
        py: Python,
        epoch: u64,
        soft_bytes: u64,
        hard_bytes: u64,
        event_token: u64,
        accept_loss: bool,
    ) -> PyResult<PyVolume> {
        let limits = Limits {
            soft_bytes,
            hard_bytes,
        };
        py.detach(|| {
            let recovery = self.0.lock().take().ok_or_else(used_up)?;
            let volume = recovery.open(epoch, limits, event_token, accept_loss)?;
            Ok(PyVolume(volume))
        })
    }
}

#[pyfunction]
fn tlog_previous(py: Python, data: &Bound<PyAny>) -> PyResult<Option<PyTlogRef>> {
    let data = Data::of(data)?;
    let data = data.bytes();
    Ok(py
        .detach(|| recovery::tlog_previous(data))?
        .map(PyTlogRef::from))
}

#[pyclass(name = "Volume", frozen, module = "engine._native")]
struct PyVolume(Arc<Volume>);

/// Ends the making of a bytes object that is not wanted after all.
fn not_wanted() -> PyErr {
    errors::Internal::new_err("a read that turned into a plan")
}

/// Makes a bytes object of `length` and has `fill` fill it, unless that needs something first.
fn filled<'py>(
    py: Python<'py>,
    length: usize,
    keep_gil: bool,
    fill: impl FnOnce(&mut [u8]) -> crate::error::Result<Reply> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let mut planned = None;
    let bytes = PyBytes::new_with(py, length, |out| {
        let reply = if keep_gil {
            fill(out)?
        } else {
            py.detach(|| fill(out))?
        };
        match reply {
            Reply::Read => Ok(()),
            Reply::Plan(plan) => {
                planned = Some(plan);
                Err(not_wanted())
            }
            Reply::Written(_) => Err(not_wanted()),
        }
    });
    match planned {
        Some(unplanned) => plan(py, unplanned),
        None => Ok(bytes?.into_any()),
    }
}

fn written<'py>(py: Python<'py>, reply: Reply) -> PyResult<Bound<'py, PyAny>> {
    match reply {
        Reply::Written(delay) => Ok(delay.into_pyobject(py)?.into_any()),
        Reply::Plan(unplanned) => plan(py, unplanned),
        Reply::Read => Err(errors::Internal::new_err("a write that read")),
    }
}

#[pymethods]
impl PyVolume {
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: u128,
        length: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        if length > REQUEST_BYTES_MAX {
            return Err(errors::Invalid::new_err(format!(
                "a request is at most {REQUEST_BYTES_MAX} bytes, not {length}"
            )));
        }
        let keep_gil = length <= CLUSTER && self.0.is_idle();
        filled(py, length, keep_gil, |out| self.0.read(offset, out))
    }

    fn write<'py>(
        &self,
        py: Python<'py>,
        offset: u128,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let data = Data::of(data)?;
        let data = data.bytes();
        let reply = if data.len() <= CLUSTER && self.0.is_idle() {
            self.0.write(offset, data)
        } else {
            py.detach(|| self.0.write(offset, data))
        };
        written(py, reply?)
    }

    fn zero<'py>(
        &self,
        py: Python<'py>,
        offset: u128,
        length: u128,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reply = py.detach(|| self.0.zero(offset, length))?;
        written(py, reply)
    }

    fn resume<'py>(&self, py: Python<'py>, plan: &PyPlan) -> PyResult<Bound<'py, PyAny>> {
        let plan = py.detach(|| {
            let mut guard = plan.0.lock();
            let right = guard.as_ref().is_none_or(|plan| plan.is_of(&self.0));
            if !right {
                return Err(errors::Invalid::new_err("the plan is of another volume"));
            }
            guard.take().ok_or_else(used_up)
        })?;
        match plan.read_length() {
            Some(length) => filled(py, length, false, move |out| plan.resume(out)),
            None => {
                let reply = py.detach(move || plan.resume(&mut []))?;
                written(py, reply)
            }
        }
    }

    #[pyo3(signature = (offset, number, data))]
    fn replace<'py>(
        &self,
        py: Python<'py>,
        offset: u128,
        number: u64,
        data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let lba = (offset / CLUSTER as u128) as u64;
        let data = data.map(Data::of).transpose()?;
        let data = data.as_ref().map(Data::bytes);
        match py.detach(|| self.0.replace(lba, number, data))? {
            Replacement::Done(delay) => Ok(delay.into_pyobject(py)?.into_any()),
            Replacement::Moved => Ok(py.None().into_bound(py)),
            Replacement::Plan(unplanned) => plan(py, unplanned),
        }
    }

    fn flush(&self, py: Python) -> PyResult<()> {
        Ok(py.detach(|| self.0.flush())?)
    }

    fn submit_flush(&self, py: Python, token: u64) {
        py.detach(|| self.0.submit_flush(token));
    }

    #[pyo3(signature = (*, seal_open, scos_max))]
    fn close_tlog(&self, py: Python, seal_open: bool, scos_max: usize) -> PyResult<Option<PyTlog>> {
        Ok(py
            .detach(|| self.0.close_tlog(seal_open, scos_max))?
            .map(PyTlog))
    }

    fn sco<'py>(&self, py: Python<'py>, number: u64) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.0.sco_bytes(number)?;
        PyBytes::new_with(py, bytes, |out| {
            Ok(py.detach(|| self.0.read_sco(number, out))?)
        })
    }

    fn head_committed(&self, py: Python, tlog: u64) -> PyResult<()> {
        Ok(py.detach(|| self.0.head_committed(tlog))?)
    }

    fn begin_checkpoint(&self, py: Python, first_object: u64) -> PyResult<Option<PyCheckpoint>> {
        let begun = py.detach(|| self.0.begin_checkpoint(first_object))?;
        Ok(begun.map(|checkpoint| PyCheckpoint {
            tlog: checkpoint.tlog,
            checkpoint: Mutex::new(checkpoint),
        }))
    }

    fn cut_next_tlog(&self, py: Python) -> PyResult<()> {
        Ok(py.detach(|| self.0.cut_next_tlog())?)
    }

    fn checkpoint_committed(&self, py: Python, root: &PyRootRef) -> PyResult<()> {
        let root = root.into();
        Ok(py.detach(|| self.0.checkpoint_committed(root))?)
    }

    fn tail(
        &self,
        py: Python,
        first_lsn: u64,
        bytes_max: usize,
    ) -> PyResult<Option<replica::PyBatch>> {
        let tail = py.detach(|| self.0.tail(first_lsn, bytes_max))?;
        replica::batch(py, tail)
    }

    fn chain(&self, py: Python, lsn: u64) -> PyResult<Option<u64>> {
        Ok(py.detach(|| self.0.chain(lsn))?)
    }

    fn tail_first_lsn(&self, py: Python) -> PyResult<u64> {
        Ok(py.detach(|| self.0.tail_first_lsn())?)
    }

    fn pin_tail(&self, py: Python, first_lsn: Option<u64>) -> PyResult<()> {
        Ok(py.detach(|| self.0.pin_tail(first_lsn))?)
    }

    fn lineage(&self, py: Python) -> PyResult<Vec<PyLineageEntry>> {
        let lineage = py.detach(|| self.0.lineage())?;
        Ok(lineage.into_iter().map(PyLineageEntry::from).collect())
    }

    fn resolve(&self, py: Python, number: u64) -> PyResult<PyLineageEntry> {
        Ok(py.detach(|| self.0.resolve(number))?.into())
    }

    fn stats(&self, py: Python) -> PyResult<PyVolumeStats> {
        Ok(PyVolumeStats(py.detach(|| self.0.stats())?))
    }

    fn close(&self, py: Python) -> PyResult<()> {
        Ok(py.detach(|| self.0.close())?)
    }
}

#[pyclass(name = "Engine", frozen, module = "engine._native")]
struct PyEngine(Arc<Engine>);

#[pymethods]
impl PyEngine {
    #[new]
    #[pyo3(signature = (path, *, segments_max, map_cache_bytes, read_cache_bytes, segments_reserve=4, map_size_bytes=64 << 30))]
    fn new(
        py: Python,
        path: PathBuf,
        segments_max: usize,
        map_cache_bytes: usize,
        read_cache_bytes: u64,
        segments_reserve: usize,
        map_size_bytes: usize,
    ) -> PyResult<PyEngine> {
        let options = Options {
            segments_max,
            segments_reserve,
            map_cache_bytes,
            read_cache_bytes,
            map_size_bytes,
            ..Options::default()
        };
        Ok(PyEngine(py.detach(|| Engine::open(&path, options))?))
    }

    #[getter]
    fn completion_fd(&self) -> i32 {
        self.0.completion_fd()
    }

    fn completions(&self, py: Python) -> Vec<(u64, Option<Py<PyAny>>)> {
        let done = self.0.completions().into_iter();
        done.map(|(token, error)| {
            let error = error.map(|error| PyErr::from(error).into_value(py).into_any());
            (token, error)
        })
        .collect()
    }

    fn volumes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let volumes = py.detach(|| self.0.volumes())?;
        Ok(volumes.iter().map(|uuid| PyBytes::new(py, uuid)).collect())
    }

    fn logs<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let volumes = py.detach(|| self.0.logs());
        volumes.iter().map(|uuid| PyBytes::new(py, uuid)).collect()
    }

    #[pyo3(signature = (volume, *, levels, head, head_next_sco))]
    fn recover(
        &self,
        py: Python,
        volume: &[u8],
        levels: u32,
        head: Option<&PyTlogRef>,
        head_next_sco: u64,
    ) -> PyResult<PyRecovery> {
        let (volume, head) = (uuid(volume)?, head.map(TlogRef::from));
        let recovery = py.detach(|| self.0.recover(volume, levels, head, head_next_sco))?;
        Ok(PyRecovery(Mutex::new(Some(recovery))))
    }

    #[pyo3(signature = (volume, *, head_next_sco=None))]
    fn replica(
        &self,
        py: Python,
        volume: &[u8],
        head_next_sco: Option<u64>,
    ) -> PyResult<replica::PyReplica> {
        let volume = uuid(volume)?;
        let replica = py.detach(|| self.0.replica(volume, head_next_sco))?;
        Ok(replica::PyReplica(replica))
    }

    fn forget(&self, py: Python, volume: &[u8]) -> PyResult<()> {
        let volume = uuid(volume)?;
        Ok(py.detach(|| self.0.forget(&volume))?)
    }

    fn cache_insert(
        &self,
        py: Python,
        origin: &[u8],
        epoch: u64,
        number: u64,
        first_cluster: u32,
        data: &Bound<PyAny>,
    ) -> PyResult<()> {
        let data = Data::of(data)?;
        let data = data.bytes();
        let key = CacheKey {
            origin: uuid(origin)?,
            epoch,
            number,
        };
        Ok(py.detach(|| self.0.cache_insert(&key, first_cluster, data))?)
    }

    fn cache_has(
        &self,
        origin: &[u8],
        epoch: u64,
        number: u64,
        first_cluster: u32,
        clusters: u32,
    ) -> PyResult<bool> {
        let key = CacheKey {
            origin: uuid(origin)?,
            epoch,
            number,
        };
        Ok(self.0.cache_has(&key, first_cluster, clusters))
    }

    fn stats(&self, py: Python) -> PyResult<PyEngineStats> {
        let stats = py.detach(|| self.0.stats());
        Ok(PyEngineStats {
            segments: stats.pool.segments,
            segments_free: stats.pool.free,
            segments_max: stats.pool.max,
            map_cache_bytes: stats.map_cache_bytes,
            read_cache_bytes: stats.read_cache.capacity_bytes,
            read_cache_used_bytes: stats.read_cache.used_bytes,
            read_cache_failed: stats.read_cache.failed,
            full: stats.full,
            map_failure: stats.map_failure,
            map_set_aside: stats.map_set_aside,
        })
    }

    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.0.path()
    }

    fn leave(&self, py: Python) -> PyResult<()> {
        Ok(py.detach(|| self.0.leave())?)
    }

    #[pyo3(signature = (path, *, fresh_map=false))]
    fn enter(&self, py: Python, path: PathBuf, fresh_map: bool) -> PyResult<()> {
        Ok(py.detach(|| self.0.enter(&path, fresh_map))?)
    }

    fn close(&self, py: Python) -> PyResult<()> {
        Ok(py.detach(|| self.0.close())?)
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CLUSTER", CLUSTER)?;
    module.add("SCO_CLUSTERS", SCO_CLUSTERS)?;
    module.add("REQUEST_BYTES_MAX", REQUEST_BYTES_MAX)?;
    module.add("WouldBlock", module.py().get_type::<WouldBlock>())?;
    module.add_class::<PyTlogRef>()?;
    module.add_class::<PyRootRef>()?;
    module.add_class::<PyLineageEntry>()?;
    module.add_class::<PyMiss>()?;
    module.add_class::<PyPlan>()?;
    module.add_class::<PySco>()?;
    module.add_class::<PyTlog>()?;
    module.add_class::<PyVolumeStats>()?;
    module.add_class::<PyEngineStats>()?;
    module.add_class::<PyCheckpoint>()?;
    module.add_class::<PyRecovery>()?;
    module.add_class::<PyVolume>()?;
    module.add_class::<PyEngine>()?;
    module.add_class::<replica::PyBatch>()?;
    module.add_class::<replica::PyReplica>()?;
    module.add_class::<survey::PySurvey>()?;
    module.add_class::<survey::PySurveyedSco>()?;
    module.add_function(wrap_pyfunction!(tlog_previous, module)?)?;
    module.add_class::<tlog_contents::PyTlogContents>()?;
    module.add_class::<tlog_contents::PyScoEntry>()?;
    module.add_class::<tlog_contents::PyTlogRecord>()?;
    module.add_function(wrap_pyfunction!(tlog_contents::read_tlog, module)?)?;
    module.add_function(wrap_pyfunction!(survey::crc32c, module)?)?;
    module.add_function(wrap_pyfunction!(survey::xxh3, module)?)?;
    Ok(())
}
