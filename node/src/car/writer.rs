//! Writing CAR files.

use std::io::Write;
use std::ops::ControlFlow;

use super::header::Header;
use super::{CarError, CarImported};
use crate::block::{Cid, IDENTITY, ReadBlocks, ReadBlocksExt};
use crate::dag::{section_header, walk};
use crate::progress::{Event, Reporter};

/// Writes the DAG below `root` as a CARv1 with that one root: depth first, each block once, as
/// Kubo's `dag export` does. Identity CIDs hold their data and get no section.
///
/// # Errors
/// Where a block cannot be had, the DAG cannot be walked, or `out` fails; what was written until
/// then is no complete CAR file.
pub fn export(
    blocks: &dyn ReadBlocks,
    root: &Cid,
    out: &mut dyn Write,
    reporter: &dyn Reporter,
) -> Result<CarImported, CarError> {
    let write_error = |source| CarError::Io {
        action: "write",
        source,
    };
    // A DAG whose root is missing leaves not even a header.
    blocks.get(root)?;
    out.write_all(&Header::encode(&[*root]))
        .map_err(write_error)?;
    let mut exported = CarImported {
        roots: vec![*root],
        ..CarImported::default()
    };
    let outcome = walk(blocks, root, &mut |visit| {
        if reporter.cancel().is_cancelled() {
            return ControlFlow::Break(CarError::Interrupted);
        }
        let data = match visit.data {
            Ok(data) => data,
            Err(error) => return ControlFlow::Break(error.into()),
        };
        if visit.cid.hash().code() == IDENTITY {
            return ControlFlow::Continue(());
        }
        exported.blocks += 1;
        exported.bytes += data.len() as u64;
        reporter.report(Event::Advanced {
            bytes: data.len() as u64,
        });
        match write_section(out, visit.cid, data) {
            Ok(()) => ControlFlow::Continue(()),
            Err(source) => ControlFlow::Break(write_error(source)),
        }
    })?;
    if let ControlFlow::Break(error) = outcome {
        return Err(error);
    }
    out.flush().map_err(write_error)?;
    Ok(exported)
}

fn write_section(out: &mut dyn Write, cid: &Cid, data: &[u8]) -> std::io::Result<()> {
    out.write_all(&section_header(cid, data.len()))?;
    out.write_all(data)
}
