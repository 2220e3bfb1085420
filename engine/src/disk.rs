//! The disk as the log sees it: a flat directory of files. A trait, so that tests can cut the power.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::system;

/// One directory. What `create`, `rename` and `remove` did is durable only after `sync_dir`.
pub trait Disk: Send + Sync {
    /// Makes an empty file; fails when the name exists.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn list(&self) -> io::Result<Vec<String>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn sync_dir(&self) -> io::Result<()>;
    /// (Bytes that may still be taken, bytes of the whole file system.)
    fn room(&self) -> io::Result<(u64, u64)>;
}

/// One file. Methods may be called from any thread at the same time.
pub trait DiskFile: Send + Sync {
    /// Fills `buffer` from `offset`; a file that ends before is an error.
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`. Survives a kill of the process when it returns, a power cut only after `sync_data`.
    fn pwrite(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Everything written before the call is on stable storage when it returns. After an error nothing is known.
    fn sync_data(&self) -> io::Result<()>;
    fn size(&self) -> io::Result<u64>;
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

/// A directory of the host's file system, through the page cache.
pub struct RealDisk {
    path: PathBuf,
}

impl RealDisk {
    /// Opens the directory, making it if it is missing.
    pub fn open(path: &Path) -> io::Result<RealDisk> {
        fs::create_dir_all(path)?;
        Ok(RealDisk {
            path: path.to_path_buf(),
        })
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn room(&self) -> io::Result<(u64, u64)> {
        system::room(&File::open(&self.path)?)
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn pwrite(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: the pool could take a file over that already exists, or lose one at a restart.
    #[test]
    fn files_are_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("a").unwrap();
        file.pwrite(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        assert!(disk.create("a").is_err());
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        let mut back = [0u8; 5];
        disk.open("b").unwrap().pread(&mut back, 3).unwrap();
        assert_eq!(&back, b"hello");
        assert!(disk.open("b").unwrap().pread(&mut back, 4).is_err());
    }
}
