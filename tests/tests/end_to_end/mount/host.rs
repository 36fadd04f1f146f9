//! `mount`: what `ipfs-api-mount` promised, and more.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipfs_exec_tests::dag::{Blocks, Link, unknown_cid};
use ipfs_exec_tests::environment::entries;
use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, Mounted, Served, delay, requirement};
use rustix::process::Signal;

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

/// Some of everything, each in the form that the arguments give it.
fn tree(environment: &Environment, arguments: &[&str]) -> String {
    environment.write("tree/large", Random::new(60).bytes(10 << 20));
    environment.write("tree/small", Random::new(61).bytes(100));
    environment.write("tree/empty", "");
    environment.write("tree/sub/deep/file", "deep");
    environment.directory("tree/nothing");
    let link = environment.file("tree/link");
    if link.symlink_metadata().is_err() {
        std::os::unix::fs::symlink("sub/deep/file", link).unwrap();
    }
    let added = environment.ipfs_exec(["add", "-Q"]).arguments(arguments);
    added.argument("tree").succeeds().line()
}

/// Compares what is mounted with what was added.
fn assert_same(mounted: &Path, original: &Path) {
    let mut names = entries(original);
    let mut found = entries(mounted);
    names.sort();
    found.sort();
    assert_eq!(found, names, "{}", mounted.display());
    for name in names {
        let (mounted, original) = (mounted.join(&name), original.join(&name));
        let (found, wanted) = (
            mounted.symlink_metadata().unwrap(),
            original.symlink_metadata().unwrap(),
        );
        assert_eq!(found.file_type(), wanted.file_type(), "{name}");
        if wanted.is_dir() {
            assert_same(&mounted, &original);
        } else if wanted.is_symlink() {
            assert_eq!(
                fs::read_link(mounted).unwrap(),
                fs::read_link(original).unwrap()
            );
        } else {
            assert_eq!(found.len(), wanted.len(), "{name}");
            assert!(
                fs::read(mounted).unwrap() == fs::read(original).unwrap(),
                "{name}"
            );
        }
    }
}

#[test]
fn trees_of_every_form_are_shown_as_they_are() {
    let environment = Environment::new();
    let forms: [&[&str]; 4] = [
        &[],
        &["--raw-leaves"],
        &["--cid-version", "1"],
        &["--profile", "unixfs-v1-2025"],
    ];
    for (number, form) in forms.into_iter().enumerate() {
        let cid = tree(&environment, form);
        let mounted = Mounted::new(&environment, [&*cid], &format!("at-{number}"));
        assert_same(&mounted.path(""), &environment.file("tree"));
        mounted.end();
    }
}

#[test]
fn attributes_are_constant() {
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    let mounted = Mounted::new(&environment, [&*cid], "at");
    for (path, mode) in [("", 0o040_555), ("sub", 0o040_555), ("small", 0o100_444)] {
        let status = fs::metadata(mounted.path(path)).unwrap();
        assert_eq!(status.mode(), mode, "{path}");
        assert_eq!((status.mtime(), status.atime(), status.ctime()), (0, 0, 0));
        assert_eq!(status.nlink(), 1);
    }
    let large = fs::metadata(mounted.path("large")).unwrap();
    assert_eq!(large.blocks(), (10 << 20) / 512);
    let number = large.ino();
    mounted.end();
    let mounted = Mounted::new(&environment, [&*cid], "again");
    let again = fs::metadata(mounted.path("large")).unwrap();
    assert_eq!(again.ino(), number);
    let mut value = [0; 100];
    let length = rustix::fs::getxattr(mounted.path("small"), "ipfs.cid", &mut value).unwrap();
    let small = environment.ipfs_exec(["stat", "--json", &format!("{cid}/small")]);
    assert_eq!(
        std::str::from_utf8(&value[..length]).unwrap(),
        small.succeeds().json()[0]["cid"].as_str().unwrap()
    );
    mounted.end();
}

#[test]
fn recorded_modes_and_times_are_shown() {
    let environment = Environment::new();
    let file = environment.write("tree/program", "#!");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
    let cid = environment.ipfs_exec(["add", "-Q", "--preserve-mode", "--mtime", "1000", "tree"]);
    let mounted = Mounted::new(&environment, [&*cid.succeeds().line()], "at");
    let status = fs::metadata(mounted.path("program")).unwrap();
    assert_eq!((status.mode(), status.mtime()), (0o100_750, 1000));
    mounted.end();
}

#[test]
fn unsupported_calls_fail_as_on_every_disk() {
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    let mounted = Mounted::new(&environment, [&*cid], "at");
    let not_there = File::open(mounted.path("none")).unwrap_err();
    assert_eq!(not_there.kind(), ErrorKind::NotFound);
    let no_directory = fs::read_dir(mounted.path("small")).unwrap_err();
    assert_eq!(no_directory.kind(), ErrorKind::NotADirectory);
    let below_a_file = File::open(mounted.path("small/none")).unwrap_err();
    assert_eq!(below_a_file.kind(), ErrorKind::NotADirectory);
    let directory = fs::read(mounted.path("sub")).unwrap_err();
    assert_eq!(directory.kind(), ErrorKind::IsADirectory);
    for result in [
        File::options()
            .write(true)
            .open(mounted.path("small"))
            .map(drop),
        File::create(mounted.path("new")).map(drop),
        fs::remove_file(mounted.path("small")),
        fs::create_dir(mounted.path("new")),
        fs::rename(mounted.path("small"), mounted.path("new")),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
    mounted.end();
}

#[test]
fn directories_of_many_shards_are_listed_and_searched() {
    let environment = Environment::new();
    for number in 0..3000 {
        environment.write(format!("tree/file-{number}"), number.to_string());
    }
    let added = environment.ipfs_exec(["add", "-Q", "--hamt-threshold", "1", "tree"]);
    let cid = added.succeeds().line();
    let mounted = Mounted::new(&environment, [&*cid], "at");
    assert_same(&mounted.path(""), &environment.file("tree"));
    // A place in a listing that was left is found again.
    let listed = environment
        .program("find")
        .argument(mounted.path(""))
        .arguments(["-size", "-2", "-name", "*7"])
        .succeeds();
    assert_eq!(listed.lines().len(), 300);
    mounted.end();
}

#[test]
fn a_part_of_a_path_is_mounted() {
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    let mounted = Mounted::new(&environment, [&*format!("/ipfs/{cid}/sub/deep")], "at");
    assert_eq!(fs::read(mounted.path("file")).unwrap(), b"deep");
    mounted.end();
}

#[test]
fn everything_is_below_one_directory() {
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    let mounted = Mounted::new(&environment, ["--all"], "at");
    let top = fs::metadata(mounted.path("")).unwrap();
    assert_eq!(top.mode(), 0o040_111);
    let listed = fs::read_dir(mounted.path("")).and_then(|mut entries| entries.next().transpose());
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_same(&mounted.path(&cid), &environment.file("tree"));
    assert_eq!(
        fs::read(mounted.path(format!("{cid}/sub/deep/file"))).unwrap(),
        b"deep"
    );
    for name in ["nonsense", "Qm", &cid[1..]] {
        let error = fs::metadata(mounted.path(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
    }
    // Files are there as well, by themselves.
    let file = environment.add("tree/small");
    assert_eq!(fs::metadata(mounted.path(file)).unwrap().len(), 100);
    mounted.running.signal(Signal::TERM);
    assert_eq!(mounted.running.wait().code, Some(0));
}

#[test]
fn unmountable_content_is_refused() {
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    environment.directory("at");
    environment.write("full/file", "");
    let mount = |arguments: &[&str]| environment.ipfs_exec(["mount"]).arguments(arguments);
    mount(&[&format!("{cid}/small"), "at"]).fails(1, &["is a file", "not a directory"]);
    mount(&["nonsense", "at"]).fails(1, &["nonsense"]);
    mount(&[&unknown_cid("nowhere").to_string(), "at"]).fails(1, &["is not in the repository"]);
    mount(&[&cid, "nowhere"]).fails(1, &["nowhere"]);
    mount(&[&cid, "full"]).fails(1, &["full", "not empty"]);
    mount(&[&cid, "full/file"]).fails(1, &["full/file"]);
    mount(&["--all", &cid, "at"]).fails(2, &["--all"]);
    mount(&[&cid]).fails(2, &["directory"]);
}

/// What is missing is an error for the one who reads it, and for nobody else.
#[test]
fn blocks_that_are_missing_are_errors_of_their_own() {
    let environment = Environment::new();
    let mut blocks = Blocks::new();
    let (here, gone) = (blocks.file(b"here"), blocks.file(b"gone"));
    let root = blocks.directory(&[Link::new("gone", gone, 10), Link::new("here", here, 10)]);
    blocks.forget(&gone);
    environment.write("some.car", blocks.car(&[root]));
    environment
        .ipfs_exec(["import", "--pin-roots=false", "some.car"])
        .succeeds();
    let mounted = Mounted::new(&environment, [&*root.to_string()], "at");
    assert_eq!(
        errno(fs::read(mounted.path("gone")).unwrap_err()),
        libc::EIO
    );
    assert_eq!(fs::read(mounted.path("here")).unwrap(), b"here");
    let names: Vec<_> = entries(&mounted.path(""));
    assert_eq!(names.len(), 2);
    mounted.end();
}

/// A peer that comes too late: an error once, and the next read works.
#[test]
fn a_read_that_timed_out_can_be_done_again() {
    let (giver, taker) = (Environment::new(), Environment::new());
    giver.write("tree/file", "from afar");
    let cid = giver.add("tree");
    let served = Served::start(&giver);
    let address = served.tcp.clone();
    let mounted = Mounted::new(
        &taker,
        ["--all", "--timeout", "2", "--peer", &address],
        "at",
    );
    served.end();
    let begun = Instant::now();
    let path = mounted.path(format!("{cid}/file"));
    assert_eq!(errno(fs::read(&path).unwrap_err()), libc::EIO);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let (listen, _) = address.split_once("/p2p/").unwrap();
    let mut again = giver.ipfs_exec(["serve", "--listen", listen]).start();
    again.wait_for_line("listening");
    let deadline = Instant::now() + Duration::from_secs(60);
    let content = loop {
        match fs::read(&path) {
            Ok(content) => break content,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    assert_eq!(content, b"from afar");
    again.signal(Signal::TERM);
    assert_eq!(again.wait().code, Some(0));
    mounted.end();
}

/// A mount whose only peer accepts connections and never speaks, and a file that it will wait for.
fn mounted_from_silence(environment: &Environment) -> (Mounted, TcpListener, PathBuf) {
    environment.configure("idle-timeout = 300\n");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port());
    let options = ["--all", "--no-mdns", "--peer", &address];
    let mounted = Mounted::new(environment, options, "at");
    let path = mounted.path(unknown_cid("never").to_string());
    (mounted, silent, path)
}

/// Nobody answers for as long as the time limit allows, and the reader is asked to end.
#[test]
fn a_reader_that_waits_for_the_network_can_be_ended() {
    let environment = Environment::new();
    let (mounted, silent, path) = mounted_from_silence(&environment);
    // The kernel makes SIGKILL of the first, and not of the second, which may leave a core.
    for signal in [Signal::INT, Signal::QUIT] {
        let reader = environment.program("cat").argument(&path).start();
        let accepted = silent.accept().unwrap();
        let begun = Instant::now();
        reader.signal(signal);
        reader.wait();
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        drop(accepted);
    }
    mounted.running.signal(Signal::TERM);
    assert_eq!(mounted.running.wait().code, Some(0));
}

/// Whoever waits for the network does not keep a mount from ending.
#[test]
fn a_mount_ends_while_a_reader_waits() {
    let environment = Environment::new();
    let (mounted, silent, path) = mounted_from_silence(&environment);
    let reader = environment.program("cat").argument(&path).start();
    let accepted = silent.accept().unwrap();
    let begun = Instant::now();
    mounted.running.signal(Signal::TERM);
    assert_eq!(mounted.running.wait().code, Some(0));
    assert_eq!(reader.wait().code, Some(1));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    drop(accepted);
}

/// With as many readers as the server has threads, no thread listened: a reader that was killed stayed.
#[test]
fn readers_can_be_killed_however_many_wait() {
    let environment = Environment::new();
    let (mounted, silent, path) = mounted_from_silence(&environment);
    let root = path.parent().unwrap();
    // Each waits for another block.
    let readers: Vec<_> = (0..70)
        .map(|number| root.join(unknown_cid(&format!("block {number}")).to_string()))
        .map(|path| environment.program("cat").argument(path).start())
        .collect();
    let accepted = silent.accept().unwrap();
    for reader in &readers {
        // Asleep in the call that opens the file.
        let call = format!("/proc/{}/syscall", reader.process().as_raw_nonzero());
        let open = format!("{} ", libc::SYS_openat);
        let patience = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(&call).unwrap().starts_with(&open) {
            assert!(Instant::now() < patience, "a reader does not wait");
            thread::yield_now();
        }
    }
    let begun = Instant::now();
    for reader in readers {
        reader.signal(Signal::KILL);
        assert_eq!(reader.wait().signal, Some(9));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    mounted.running.signal(Signal::TERM);
    assert_eq!(mounted.running.wait().code, Some(0));
    drop(accepted);
}

/// A block that nobody has fails those who read it, again and again, and not those who wait for
/// others meanwhile.
#[test]
fn reads_fail_each_for_itself() {
    let (giver, taker) = (Environment::new(), Environment::new());
    let large = Random::new(62).bytes(20 << 20);
    giver.write("large", &large);
    let large_cid = giver.add("large");
    let gone = unknown_cid("gone").to_string();
    let served = Served::start(&giver);
    let port = served.tcp.split('/').nth(4).unwrap().parse().unwrap();
    let (_, peer) = served.tcp.split_once("/p2p/").unwrap();
    let line = delay::line(([127, 0, 0, 1], port).into(), Duration::from_millis(50));
    let address = format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", line.port());
    let mounted = Mounted::new(&taker, ["--all", "--no-mdns", "--peer", &address], "at");
    let (is_done, misses) = (AtomicBool::new(false), AtomicUsize::new(0));
    let read = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                let missed = fs::metadata(mounted.path(&gone)).unwrap_err();
                assert_eq!(errno(missed), libc::EIO);
                misses.fetch_add(1, Ordering::SeqCst);
            }
        });
        let read = fs::read(mounted.path(&large_cid));
        is_done.store(true, Ordering::SeqCst);
        read
    });
    assert!(read.unwrap() == large, "the content is another");
    assert!(misses.into_inner() > 1);
    mounted.end();
    served.end();
}

/// A process that was killed leaves a directory that the next one can use, and that hangs nobody.
#[test]
fn a_mount_that_was_killed_is_cleared() {
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    let mounted = Mounted::new(&environment, [&*cid], "at");
    mounted.running.signal(Signal::KILL);
    let directory = mounted.path("");
    mounted.running.wait();
    let stale = fs::read_dir(&directory).unwrap_err();
    assert_eq!(errno(stale), libc::ENOTCONN);
    let mounted = Mounted::at(&environment, [&*cid], &directory);
    assert_eq!(fs::read(mounted.path("sub/deep/file")).unwrap(), b"deep");
    mounted.end();
}

/// Unmounted by somebody else, the process ends by itself.
#[test]
fn an_unmount_ends_it() {
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    let mounted = Mounted::new(&environment, [&*cid], "at");
    let unmount = requirement::tool("fusermount3", "fuse3");
    let outcome = environment
        .program(unmount)
        .argument("-u")
        .argument(mounted.path(""));
    outcome.succeeds();
    assert_eq!(mounted.running.wait().code, Some(0));
}

/// A script mounts, goes on, and unmounts.
#[test]
fn a_mount_goes_on_in_the_background() {
    requirement::fuse();
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    let place = environment.directory("a place");
    let mount = |arguments: &[&str]| {
        let call = environment.ipfs_exec(["mount", "--background"]);
        call.arguments(arguments).argument(&place)
    };
    // What a shell puts into `$( )` has an end.
    let outcome = mount(&[&cid]).succeeds();
    assert!(outcome.line().contains("is mounted at"), "{outcome:?}");
    assert_same(&place, &environment.file("tree"));
    let umount = |arguments: &[&str]| {
        let call = environment.ipfs_exec(["umount"]);
        call.arguments(arguments).argument(&place)
    };
    let open = File::open(place.join("large")).unwrap();
    umount(&[]).fails(1, &["a place", "busy", "--lazy"]);
    umount(&["--lazy"]).succeeds();
    assert_eq!(entries(&place), Vec::<String>::new());
    drop(open);
    mount(&["--all"]).succeeds();
    assert_same(&place.join(&cid), &environment.file("tree"));
    umount(&[]).succeeds();
    umount(&[]).fails(1, &["a place", "no mount of ipfs-exec"]);
    // What goes wrong before is told, and is the exit code.
    mount(&["nonsense"]).fails(1, &["nonsense"]);
    environment.write("a place/file", "");
    mount(&[&cid]).fails(1, &["a place", "empty"]);
}

/// The older tools take their own options, and are unmounted by `fusermount`.
#[test]
fn the_older_tools_mount_one_directory_or_everything() {
    requirement::fuse();
    let fusermount = requirement::tool("fusermount3", "fuse3");
    let environment = Environment::new();
    let cid = tree(&environment, &[]);
    let place = environment.directory("place");
    let log = environment.file("log");
    let log = log.to_str().unwrap();
    let tool = |name: &str| environment.ipfs_exec([] as [&str; 0]).called_as(name);
    let unmount = || {
        let call = environment.program(&fusermount).argument("-u");
        call.argument(&place).succeeds();
    };
    let outcome = tool("ipfs-api-mount")
        .arguments([
            "--background",
            "--timeout",
            "2.5",
            "--ls-cache-size",
            "64",
            &cid,
        ])
        .argument(&place)
        .succeeds();
    let note = "`--ls-cache-size` has no effect";
    assert!(outcome.stderr.contains(note), "{outcome:?}");
    assert_same(&place, &environment.file("tree"));
    unmount();
    tool("ipfs-api-mount-whole")
        .arguments(["--background", "-v", "-l", log])
        .argument(&place)
        .succeeds();
    assert_same(&place.join(&cid), &environment.file("tree"));
    // The process in the background says in the log what nobody has.
    let missing = "QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4";
    fs::read_dir(place.join(missing)).unwrap_err();
    unmount();
    let told = fs::read_to_string(log).unwrap();
    assert!(told.contains(missing), "{told}");
    let version = tool("ipfs-api-mount").argument("--version").succeeds();
    assert!(version.text().starts_with("ipfs-api-mount "), "{version:?}");
    let refused = tool("ipfs-api-mount").arguments(["--api-port", "5001", &cid]);
    let refused = refused.argument(&place).ends_with(2);
    assert!(
        refused.stderr.contains("there is no API to ask"),
        "{refused:?}"
    );
}
