//! Root file systems, honest and hostile.

use std::fs;

use ipfs_exec_tests::environment::entries;
use ipfs_exec_tests::{Archive, archive, tree};
use tar::EntryType;

use crate::machine::{EMPTY, Machine};

/// Directories that the sandbox mounts something on.
const MOUNT_POINTS: [&str; 5] = ["proc", "dev", "tmp", "input", "output"];

#[test]
fn mount_points_may_be_directories() {
    let mut image = Archive::busybox();
    for name in MOUNT_POINTS {
        image = image
            .directory(name, 0o700)
            .file(&format!("{name}/hidden"), 0o644, "x");
    }
    let machine = Machine::with(&image);
    assert_eq!(
        machine.says("ls -A /tmp /input; ls /dev/hidden 2>/dev/null || :"),
        "/input:\n\n/tmp:\n"
    );
    machine.environment.assert_clean();
}

#[test]
fn mount_points_that_are_links_or_files_are_refused() {
    let canary = tempfile::tempdir().unwrap();
    fs::write(canary.path().join("canary"), "sings").unwrap();
    let outside = canary.path().to_str().unwrap();
    let targets = [
        outside,
        "bin",
        "missing",
        "/missing",
        "..",
        "../../../../tmp",
        "bin/../../x",
        ".",
    ];
    for name in MOUNT_POINTS {
        for target in targets {
            let machine = Machine::with(&Archive::busybox().symlink(name, target));
            machine
                .run(["sh", "-c", "touch /output/x /tmp/x"])
                .fails(125, &[name]);
            machine.environment.assert_clean();
        }
        for content in ["", "text"] {
            let machine = Machine::with(&Archive::busybox().file(name, 0o644, content));
            machine.run(["true"]).fails(125, &[name]);
            machine.environment.assert_clean();
        }
    }
    assert_eq!(entries(canary.path()), ["canary"]);
    assert_eq!(fs::read(canary.path().join("canary")).unwrap(), b"sings");
}

/// Bubblewrap before 0.12 followed links of the root file system while it set the sandbox up, when
/// the old root still stood at `/oldroot` (CVE-2026-87766).
#[test]
fn links_to_the_old_root_lead_nowhere() {
    let canary = tempfile::tempdir().unwrap();
    fs::write(canary.path().join("canary"), "sings").unwrap();
    let outside = canary.path().display();
    for name in ["etc", "run", "var", "sys", "root", "home"] {
        let image = Archive::busybox().symlink(name, &format!("/oldroot{outside}"));
        let machine = Machine::with(&image);
        let script = format!(
            "touch /{name}/new 2>/dev/null; mkdir -p /oldroot 2>/dev/null; cat /{name}/canary 2>/dev/null; :"
        );
        assert_eq!(machine.says(&script), "", "{name}");
        machine.environment.assert_clean();
    }
    assert_eq!(entries(canary.path()), ["canary"]);
    assert_eq!(fs::read(canary.path().join("canary")).unwrap(), b"sings");
}

#[test]
fn entries_that_leave_the_tree_are_refused() {
    let canary = tempfile::tempdir().unwrap();
    let busybox = Archive::busybox;
    let images = [
        ("../escape", busybox().file("../escape", 0o644, "x")),
        (
            "bin/../../escape",
            busybox().file("bin/../../escape", 0o644, "x"),
        ),
        (
            "loop/escape",
            busybox()
                .symlink("loop", "loop")
                .file("loop/escape", 0o644, "x"),
        ),
        (
            "stolen",
            busybox().hard_link("stolen", "../../../../../etc/passwd"),
        ),
        (
            "stolen",
            busybox()
                .symlink("link", "/etc")
                .hard_link("stolen", "link/passwd"),
        ),
        ("stolen", busybox().hard_link("stolen", "missing")),
    ];
    for (name, image) in images {
        let machine = Machine::with(&image);
        machine.run(["true"]).fails(125, &[name]);
        machine.environment.assert_clean();
        assert!(entries(canary.path()).is_empty(), "{name}");
        let beside = entries(&machine.environment.repository().join("rootfs"));
        assert!(beside.is_empty(), "left of {name}: {beside:?}");
    }
}

#[test]
fn absolute_names_stay_inside() {
    let canary = tempfile::tempdir().unwrap();
    let inside = format!("{}/file", canary.path().display());
    let machine = Machine::with(&Archive::busybox().file(&inside, 0o644, "x"));
    let outcome = machine.run(["true"]).run();
    assert!(matches!(outcome.code, Some(0 | 125)), "{outcome:?}");
    assert!(entries(canary.path()).is_empty());
}

/// Paths through links of the archive lead where they lead for the program, never to the host.
#[test]
fn entries_through_links_stay_inside() {
    let canary = tempfile::tempdir().unwrap();
    let outside = canary.path().to_str().unwrap();
    let image = Archive::busybox()
        .symlink("absolute", outside)
        .file("absolute/file", 0o644, "a")
        .symlink("up", "../../..")
        .file("up/file", 0o644, "b")
        .directory("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .file("lib/file", 0o644, "c")
        .hard_link("lib/again", "absolute/file");
    let machine = Machine::with(&image);
    // The sandbox mounts its own `/tmp` over that of the tree.
    let places = ["/file", "/usr/lib/file", "/lib/again"];
    assert_eq!(machine.says(&format!("cat {}", places.join(" "))), "bca");
    assert_eq!(entries(canary.path()), [""; 0]);
    machine.environment.assert_clean();
}

#[test]
fn the_last_entry_with_a_path_counts() {
    let image = Archive::busybox()
        .file("same", 0o644, "first")
        .hard_link("other", "same")
        .file("same", 0o644, "second")
        .directory("tree/below", 0o755)
        .file("tree", 0o644, "third")
        .file("link", 0o644, "x")
        .symlink("link", "same");
    let machine = Machine::with(&image);
    assert_eq!(
        machine.says("cat /same /other /tree /link"),
        "secondfirstthirdsecond"
    );
    machine.environment.assert_clean();
    // A file is no directory, whatever comes later.
    let image = Archive::busybox()
        .file("same", 0o644, "a")
        .file("same/below", 0o644, "b");
    let machine = Machine::with(&image);
    machine.run(["true"]).fails(125, &["same/below"]);
    machine.environment.assert_clean();
}

/// A download with a stray byte at its end was called truncated.
#[test]
fn bytes_after_a_compressed_archive_are_a_warning() {
    let machine = Machine::new();
    let mut bytes = Archive::busybox().gzip();
    bytes.push(b'\n');
    machine.environment.write("trailing.tar.gz", bytes);
    for _ in 0..2 {
        let run = machine
            .environment
            .ipfs_exec(["run", "trailing.tar.gz", EMPTY, "true"]);
        let errors = run.succeeds().stderr;
        assert!(errors.contains("after the last gzip stream"), "{errors}");
    }
    let unpack = machine
        .environment
        .ipfs_exec(["image", "unpack", "trailing.tar.gz"]);
    let errors = unpack.succeeds().stderr;
    assert!(errors.contains("after the last gzip stream"), "{errors}");
}

/// `docker save` gives an archive of archives. It unpacked, and then had no `/sbin/init`.
#[test]
fn archives_of_images_are_errors_with_a_remedy() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let saved = Archive::new()
        .file("1f/layer.tar", 0o644, Archive::busybox().tar())
        .file("2e.json", 0o644, "{}")
        .file("manifest.json", 0o644, "[]");
    let layout = Archive::new()
        .file("blobs/sha256/1f", 0o644, "{}")
        .file("index.json", 0o644, "{}")
        .file("oci-layout", 0o644, "{}");
    for (archive, words) in [(saved, "`docker save`"), (layout, "OCI image archive")] {
        let path = environment.write("image.tar", archive.tar());
        let words = &[words, "docker export"];
        environment
            .ipfs_exec(["run", "image.tar", EMPTY, "true"])
            .fails(125, words);
        let added = environment.add(&path);
        environment
            .ipfs_exec(["run", &added, EMPTY, "true"])
            .fails(125, words);
        environment
            .ipfs_exec(["image", "unpack", "image.tar"])
            .fails(1, words);
        environment.assert_clean();
    }
}

#[test]
fn a_directory_may_come_twice_and_late() {
    let image = Archive::busybox()
        .file("late/file", 0o644, "x")
        .directory("late", 0o755)
        .directory("bin", 0o755)
        .first(|archive| archive.directory(".", 0o755))
        .file("./dotted", 0o644, "y");
    let machine = Machine::with(&image);
    assert_eq!(machine.says("cat /late/file /dotted"), "xy");
}

#[test]
fn every_kind_of_entry_is_unpacked() {
    let deep = (0..20)
        .map(|_| "a-directory-with-a-long-name")
        .collect::<Vec<_>>()
        .join("/");
    let long = "n".repeat(200);
    let mut image = Archive::busybox();
    let mut directory = String::new();
    for part in deep.split('/') {
        directory = if directory.is_empty() {
            part.to_owned()
        } else {
            format!("{directory}/{part}")
        };
        image = image.directory(&directory, 0o755);
    }
    let image = image
        .file(&format!("{deep}/{long}"), 0o644, "long")
        .symlink("link", &format!("{deep}/{long}"))
        .file("first", 0o644, "hard")
        .hard_link("second", "first")
        .file("writable", 0o666, "x")
        .file("unreadable", 0o000, "x");
    let machine = Machine::with(&image);
    assert_eq!(machine.says("cat /link /second"), "longhard");
    assert_eq!(machine.says("stat -c %h /first"), "2\n");
    machine.environment.assert_clean();
}

#[test]
fn set_id_bits_are_cleared_and_owners_dropped() {
    let image = Archive::busybox()
        .file("bin/su", 0o6755, "x")
        .directory("sticky", 0o1777);
    let machine = Machine::with(&image);
    assert_eq!(machine.says("stat -c '%a %u %g' /bin/su"), "755 0 0\n");
    let tree = machine.environment.repository().join("rootfs");
    let set_id = entries(&tree)
        .iter()
        .map(|entry| tree.join(entry))
        .flat_map(|entry| {
            tree::snapshot(&entry)
                .into_keys()
                .map(move |path| entry.join(path))
        })
        .filter(|path| tree::mode(path) & 0o6000 != 0)
        .count();
    assert_eq!(set_id, 0);
}

#[test]
fn device_nodes_are_skipped_with_a_warning() {
    let image = Archive::busybox()
        .special("a-character-device", EntryType::Char)
        .special("a-block-device", EntryType::Block);
    let machine = Machine::with(&image);
    let outcome = machine
        .run(["sh", "-c", "ls / | grep device || :"])
        .succeeds();
    for name in ["a-character-device", "a-block-device"] {
        assert!(
            outcome.stderr.contains(name),
            "no word about {name}\n{outcome:?}"
        );
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    const DECLARED_BYTES: u64 = 10 << 30;
    const LIMIT_BYTES: u64 = 64 << 20;
    for (name, bytes) in [
        ("gzip", archive::bomb(DECLARED_BYTES, archive::gzip)),
        ("zstd", archive::bomb(DECLARED_BYTES, archive::zstd)),
        ("bzip2", archive::bomb(DECLARED_BYTES, archive::bzip2)),
        ("xz", archive::bomb(DECLARED_BYTES, archive::xz)),
    ] {
        let machine = Machine::new();
        let file = machine.environment.write(name, bytes);
        let bomb = machine.environment.add(file);
        let limit = LIMIT_BYTES.to_string();
        let outcome = machine
            .environment
            .ipfs_exec(["run", "--max-rootfs-size", &limit, &bomb, EMPTY, "true"])
            .fails(125, &[&bomb]);
        ipfs_exec_tests::environment::assert_bounded(&outcome, 256 << 20);
        machine.environment.assert_clean();
        let left = tree::disk_usage(&machine.environment.repository().join("rootfs"));
        assert!(left < 1 << 20, "{left} bytes are left of the bomb");
    }
}

#[test]
fn a_sparse_file_counts_by_its_size() {
    let image = Archive::busybox().file("zeros", 0o644, vec![0; 8 << 20]);
    let machine = Machine::with(&image);
    machine
        .environment
        .ipfs_exec([
            "run",
            "--max-rootfs-size",
            "4194304",
            &machine.rootfs,
            EMPTY,
            "true",
        ])
        .fails(125, &[&machine.rootfs]);
    machine.environment.assert_clean();
    // The limit is one of a run: without it the same image is fine.
    assert_eq!(machine.says("stat -c %s /zeros"), "8388608\n");
}

/// Programs that are the file which starts the program: it would start itself, and its end would be taken for
/// that of a program.
#[test]
fn links_to_the_stub_are_no_program() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let with = |target: &str| Archive::busybox_without_init().symlink("sbin/init", target);
    let mut archives: Vec<_> = [
        "/proc/self/exe",
        "/proc/1/exe",
        "/proc/thread-self/exe",
        "../proc/self/../self/exe",
        "/dev/fd/3",
    ]
    .map(with)
    .into();
    archives.extend((3..10).map(|number| with(&format!("/proc/self/fd/{number}"))));
    archives.push(with("step").symlink("sbin/step", "/proc/self/exe"));
    let script = Archive::busybox_without_init();
    archives.push(
        script
            .clone()
            .file("sbin/init", 0o755, "#!/proc/self/exe\n"),
    );
    archives.push(
        script
            .file("sbin/init", 0o755, "#! /bin/self -x\n")
            .symlink("bin/self", "/proc/self/exe"),
    );
    for archive in archives {
        environment.write("init.tar", archive.tar());
        let packed = environment.add("init.tar");
        let shown = environment.ipfs_exec(["image", "unpack", "init.tar"]);
        for rootfs in [packed, shown.succeeds().line()] {
            let outcome = environment.ipfs_exec(["run", "--timeout", "20s", &rootfs, EMPTY]);
            let outcome = outcome.fails(126, &["/sbin/init"]);
            assert!(outcome.stdout.is_empty(), "{outcome:?}");
        }
    }
    environment.assert_clean();
}

/// The README promised that `gc` gives all space back, and unpacked root file systems stayed for ever.
#[test]
fn unpacked_root_file_systems_are_removed_on_request_and_above_the_cap() {
    let machine = Machine::new();
    let environment = &machine.environment;
    machine.run(["true"]).succeeds();
    assert_eq!(environment.statistic("rootfs_entries"), 1);
    let bytes = environment.statistic("rootfs_bytes");
    assert_eq!(environment.statistic("rootfs_cache_bytes"), 32 << 30);

    let kept = environment.ipfs_exec(["gc", "--json"]).succeeds().json();
    assert_eq!(kept[0]["rootfs_entries"], 0);
    assert_eq!(environment.statistic("rootfs_entries"), 1);
    let removed = environment
        .ipfs_exec(["gc", "--rootfs", "--json"])
        .succeeds()
        .json();
    assert_eq!(removed[0]["rootfs_entries"], 1);
    assert_eq!(removed[0]["rootfs_bytes"], bytes);
    assert_eq!(environment.statistic("rootfs_entries"), 0);
    assert!(entries(&environment.repository().join("rootfs")).is_empty());

    // Each run may use its own, and the next one removes it.
    environment.configure("mdns = false\nrootfs-cache = '1KiB'\n");
    assert_eq!(environment.statistic("rootfs_cache_bytes"), 1024);
    machine.run(["true"]).succeeds();
    let other = environment.write(
        "other.tar",
        Archive::busybox().file("other", 0o644, "x").tar(),
    );
    let other = environment.add(other);
    environment
        .ipfs_exec(["run", &other, EMPTY, "true"])
        .succeeds();
    assert_eq!(environment.statistic("rootfs_entries"), 1);
    environment.assert_clean();
}
