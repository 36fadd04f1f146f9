//! Whether bubblewrap can make a sandbox here.

use std::process::{Command, Stdio};

use super::plan;
use super::probe::Bubblewrap;

impl Bubblewrap {
    /// Makes a sandbox with all namespaces and none of our mounts, in which it prints its version.
    ///
    /// # Errors
    /// What bubblewrap says.
    pub(crate) fn try_out(&self) -> Result<(), String> {
        let output = Command::new(&self.path)
            .args(plan::trial(self.version))
            .arg(&self.path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().last().unwrap_or("it says nothing").to_owned())
    }
}
