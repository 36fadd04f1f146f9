//! Whole runs. They need bubblewrap, user namespaces and a static busybox, and fail where one is
//! missing.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ipfs_exec_node::Cid;
use ipfs_exec_node::path::ContentPath;
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::unixfs::{self, FileReader};
use tempfile::TempDir;

use super::*;
use crate::testing::add_bytes;
use ipfs_exec_node::CancelSource;

/// A directory with `test` holding `blabla\n`.
const BLABLA: &str = "QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4";

/// The empty directory.
const EMPTY: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

struct Bench {
    _directory: TempDir,
    repository: Repository,
    busybox: Cid,
    empty: Cid,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open(&directory.path().join("repository")).unwrap();
        fs::create_dir(directory.path().join("empty")).unwrap();
        let archive = busybox_archive("#!/bin/busybox sh\nexec /bin/busybox \"$@\"\n");
        let busybox = add_bytes(&repository, &archive);
        let empty = add_path(
            &repository,
            directory.path(),
            "empty",
            &ImportOptions::default(),
        );
        assert_eq!(empty.to_string(), EMPTY);
        Bench {
            _directory: directory,
            repository,
            busybox,
            empty,
        }
    }

    fn job(&self, rootfs: Cid, input: Cid, script: &str) -> Job {
        let arguments = ["sh", "-c", script].map(Into::into).into();
        Job::new(rootfs, input, arguments, []).unwrap()
    }

    fn run(&self, input: Cid, script: &str) -> Result<Outcome, RunError> {
        self.run_job(&self.job(self.busybox, input, script))
    }

    fn run_job(&self, job: &Job) -> Result<Outcome, RunError> {
        let result = Run::new(&self.repository, &self.repository, job).execute();
        self.assert_clean();
        result
    }

    fn assert_clean(&self) {
        let scratch = fs::read_dir(self.repository.path().join("run")).unwrap();
        assert_eq!(scratch.count(), 0, "scratch stays behind");
    }

    fn read(&self, path: &str) -> String {
        let path: ContentPath = path.parse().unwrap();
        let cid = unixfs::resolve(&self.repository, &path).unwrap();
        std::io::read_to_string(FileReader::open(&self.repository, &cid).unwrap()).unwrap()
    }
}

/// An archive with busybox and a script as `/sbin/init`.
fn busybox_archive(init: &str) -> Vec<u8> {
    let mut archive = archive_of_busybox();
    append(&mut archive, "sbin/init", init.as_bytes());
    archive.into_inner().unwrap()
}

/// An archive with busybox and a link as `/sbin/init`.
fn linked_archive(target: &str) -> Vec<u8> {
    let mut archive = archive_of_busybox();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive
        .append_link(&mut header, "sbin/init", target)
        .unwrap();
    archive.into_inner().unwrap()
}

fn archive_of_busybox() -> tar::Builder<Vec<u8>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .expect("busybox is installed (`apt-get install busybox-static`)");
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "bin/busybox", &fs::read(busybox).unwrap());
    archive
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).unwrap();
}

fn add_path(repository: &Repository, parent: &Path, name: &str, options: &ImportOptions) -> Cid {
    let session = repository.session().unwrap();
    let directory = beneath::open_root(parent).unwrap();
    let cid = unixfs::import_path(
        &session,
        directory.as_fd(),
        name.as_ref(),
        options,
        &Silent,
        &mut |_| {},
    )
    .unwrap()
    .cid;
    session.commit(&[]).unwrap();
    cid
}

/// The example of the tool that this one follows.
#[test]
fn the_example() {
    let bench = Bench::new();
    let outcome = bench
        .run(bench.empty, "echo blabla > /output/test")
        .unwrap();
    let cid = outcome.output.cid.to_string();
    assert_eq!(cid, BLABLA);
    assert_eq!(bench.read(&format!("{cid}/test")), "blabla\n");
    assert!(outcome.exit.success());
    let pin = bench.repository.pin(&outcome.output.cid).unwrap();
    assert!(pin.is_some());
}

#[test]
fn nothing_written_is_the_empty_directory() {
    let bench = Bench::new();
    let outcome = bench.run(bench.empty, "true").unwrap();
    assert_eq!(outcome.output.cid, bench.empty);
}

#[test]
fn a_failed_program_has_output_too() {
    let bench = Bench::new();
    let outcome = bench
        .run(bench.empty, "echo blabla > /output/test; exit 42")
        .unwrap();
    assert_eq!(outcome.exit.code(), 42);
    assert_eq!(outcome.output.cid.to_string(), BLABLA);
}

#[test]
fn a_file_as_input() {
    let bench = Bench::new();
    let input = add_bytes(&bench.repository, b"hello");
    let outcome = bench
        .run(input, "busybox tr a-z A-Z < /input > /output/shout")
        .unwrap();
    assert_eq!(
        bench.read(&format!("{}/shout", outcome.output.cid)),
        "HELLO"
    );
}

/// The program does its worst to what must be read and removed afterwards.
#[test]
fn trees_that_refuse_their_owner() {
    let bench = Bench::new();
    let script = "cd /output; busybox mkdir -p a/b; echo blabla > a/b/secret; \
                  busybox chmod 0 a/b/secret a/b a /output; \
                  cd /tmp; busybox mkdir -p x/y; echo > x/y/z; busybox chmod 0 x/y x /tmp";
    let outcome = bench.run(bench.empty, script).unwrap();
    assert_eq!(
        bench.read(&format!("{}/a/b/secret", outcome.output.cid)),
        "blabla\n"
    );
}

#[test]
fn special_files_in_the_output_are_named() {
    let bench = Bench::new();
    let error = bench
        .run(bench.empty, "busybox mkfifo /output/pipe")
        .unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    assert!(text.contains("pipe"), "{text}");
    assert_eq!(error.exit_code(), EXIT_REFUSED);
}

#[test]
fn links_of_the_output_are_kept_and_not_followed() {
    let bench = Bench::new();
    let script = "busybox ln -s /etc/passwd /output/link; busybox ln -s /etc /output/etc";
    let outcome = bench.run(bench.empty, script).unwrap();
    assert!(outcome.output.bytes < 100, "{:?}", outcome.output);
}

#[test]
fn exit_codes_of_runs_that_do_not_begin() {
    let bench = Bench::new();
    let exit_code = |archive: &[u8]| {
        let rootfs = add_bytes(&bench.repository, archive);
        let job = bench.job(rootfs, bench.empty, "true");
        let repository = &bench.repository;
        let error = Run::new(repository, repository, &job)
            .execute()
            .unwrap_err();
        bench.assert_clean();
        error.exit_code()
    };
    assert_eq!(exit_code(b"no archive"), EXIT_FAILED);
    assert_eq!(exit_code(&[0; 1024]), EXIT_NOT_FOUND);
    assert_eq!(
        exit_code(&busybox_archive("#!/no/interpreter\n")),
        EXIT_NOT_EXECUTABLE
    );
    assert_eq!(exit_code(&linked_archive("/input/nothing")), EXIT_NOT_FOUND);
}

/// A program with more arguments than the kernel takes was said to lack its interpreter.
#[test]
fn too_many_arguments_are_named() {
    let bench = Bench::new();
    let long = "x".repeat(crate::job::MAX_STRING_BYTES);
    // More than the 6 MiB that no kernel exceeds, whatever the limit of the stack is.
    let arguments = std::iter::repeat_n(long.into(), 50).collect();
    let job = Job::new(bench.busybox, bench.empty, arguments, []).unwrap();
    let error = bench.run_job(&job).unwrap_err();
    assert_eq!(error.exit_code(), EXIT_NOT_EXECUTABLE);
    let RunError::Sandbox(SandboxError::NotExecuted(source)) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::ArgumentListTooLong);
    let hint = error.hint().unwrap();
    assert!(hint.contains("INPUT"), "{hint}");
}

#[test]
fn the_program_may_come_from_the_input() {
    let bench = Bench::new();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("input/program");
    fs::create_dir(directory.path().join("input")).unwrap();
    fs::write(&program, "#!/bin/busybox sh\necho blabla > /output/test\n").unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let options = ImportOptions {
        preserve_mode: true,
        ..Default::default()
    };
    let input = add_path(&bench.repository, directory.path(), "input", &options);
    let rootfs = add_bytes(&bench.repository, &linked_archive("/input/program"));
    let outcome = bench.run_job(&Job::new(rootfs, input, vec![], []).unwrap());
    assert_eq!(outcome.unwrap().output.cid.to_string(), BLABLA);
}

#[test]
fn interruption_keeps_nothing() {
    let bench = Bench::new();
    let source = CancelSource::new().unwrap();
    source.cancel();
    let job = bench.job(
        bench.busybox,
        bench.empty,
        "echo > /output/x; busybox sleep 60",
    );
    let repository = &bench.repository;
    let pins = repository.pins().unwrap().len();
    let token = source.token();
    let run = Run::new(repository, repository, &job).caller(&token);
    let error = run.execute().unwrap_err();
    assert!(matches!(error, RunError::Interrupted), "{error:?}");
    assert_eq!(repository.pins().unwrap().len(), pins);
    bench.assert_clean();
}

#[test]
fn many_runs_at_once_on_one_repository() {
    let bench = Bench::new();
    let job = bench.job(bench.busybox, bench.empty, "echo blabla > /output/test");
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let repository = Repository::open(bench.repository.path()).unwrap();
                    let run = Run::new(&repository, &repository, &job);
                    run.execute().unwrap()
                })
            })
            .collect();
        for run in runs {
            let cid = run.join().unwrap().output.cid.to_string();
            assert_eq!(cid, BLABLA);
        }
    });
    bench.assert_clean();
}
