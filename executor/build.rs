//! Compiles the stub that the library embeds: a static program without a C library.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=stub");
    let variable = |name| env::var_os(name);
    let required = |name| variable(name).unwrap_or_else(|| fail(&format!("cargo sets no {name}")));
    let output = PathBuf::from(required("OUT_DIR")).join("stub");
    let mut compiler = Command::new(required("RUSTC"));
    compiler
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "stub",
            "--crate-type",
            "bin",
        ])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "relocation-model=static", "-C", "codegen-units=1"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"])
        .args([
            "-C",
            "link-arg=-static",
            "-C",
            "link-arg=-Wl,--build-id=none",
        ])
        .args(["-C", "link-arg=-Wl,-z,noexecstack"])
        .arg("--target")
        .arg(required("TARGET"))
        .arg("-o")
        .arg(&output)
        .arg("stub/main.rs");
    if let Some(linker) = variable("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        compiler.arg("-C").arg(option);
    }
    match compiler.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("cannot compile stub/main.rs: {status}")),
        Err(error) => fail(&format!("cannot start the compiler: {error}")),
    }
}

fn fail(reason: &str) -> ! {
    println!("cargo::error={reason}");
    exit(1)
}
