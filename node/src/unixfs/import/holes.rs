//! Finds the holes of a sparse file, so that they are not read.

use std::fs::File;
use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Where a file has data. Offsets are asked for in ascending order.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// The last extent that was found. All between the offset that was asked for and its start is a hole.
    data: Range<u64>,
}

impl Extents {
    /// How many bytes from `offset` on are a hole, up to `size`. Where the file system does not tell
    /// holes, there are none.
    pub(super) fn hole_at(&mut self, file: &File, offset: u64, size: u64) -> Result<u64, Errno> {
        if offset >= self.data.end {
            self.data = next_data(file, offset, size)?;
        }
        Ok(self.data.start.saturating_sub(offset))
    }
}

/// The first extent that ends behind `offset`; an empty one at `size` where there is none.
fn next_data(file: &File, offset: u64, size: u64) -> Result<Range<u64>, Errno> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) if start < size => start,
        Ok(_) | Err(Errno::NXIO) => return Ok(size..size),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(offset..size),
        Err(errno) => return Err(errno),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => Ok(start..end),
        // The file was cut meanwhile, which reading tells.
        Err(Errno::NXIO) => Ok(start..size),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_end_where_data_begins() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * MIB).unwrap();
        for offset in [2 * MIB, 5 * MIB] {
            file.write_all_at(&[1; 4096], offset).unwrap();
        }
        let mut extents = Extents::default();
        let mut hole = |offset| extents.hole_at(&file, offset, 10 * MIB).unwrap();
        assert_eq!(hole(0), 2 * MIB);
        assert_eq!(hole(MIB), MIB);
        assert_eq!(hole(2 * MIB), 0);
        assert_eq!(hole(3 * MIB), 2 * MIB);
        assert_eq!(hole(5 * MIB), 0);
        assert_eq!(hole(6 * MIB), 4 * MIB);
        assert_eq!(hole(9 * MIB), MIB);
    }

    #[test]
    fn a_dense_file_has_none() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0; 10_000], 0).unwrap();
        let mut extents = Extents::default();
        for offset in [0, 4096, 9999] {
            assert_eq!(extents.hole_at(&file, offset, 10_000), Ok(0));
        }
    }
}
