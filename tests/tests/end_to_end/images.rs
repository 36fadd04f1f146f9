//! The recipes of the example images.
//!
//! The tests of `apk` use a stand-in for Alpine's `apk.static`; it says so in its output.

use std::fs;
use std::path::{Path, PathBuf};

use ipfs_exec_tests::environment::binary;
use ipfs_exec_tests::{Environment, Invocation, requirement};

use crate::machine::EMPTY;

/// A program that takes the place of Alpine's `apk.static`.
const APK: &str = include_str!("../../alpine/apk.static");
/// A script that makes Alpine packages and their index.
const REPOSITORY: &str = include_str!("../../alpine/repository.sh");

/// The directory `examples`, which may have been copied elsewhere: `IPFS_EXEC_EXAMPLES`.
fn examples() -> PathBuf {
    std::env::var_os("IPFS_EXEC_EXAMPLES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"),
        PathBuf::from,
    )
}

#[test]
fn the_busybox_archive_has_the_same_bytes_in_every_build() {
    requirement::busybox();
    let environment = Environment::new();
    let recipe = examples().join("images/busybox/build.sh");
    let mut archives = Vec::new();
    for umask in ["022", "077", "000"] {
        let output = environment.file(format!("{umask}.tar.gz"));
        let call = format!("umask {umask}; exec \"$0\" \"$1\"");
        let program = environment.program("/bin/sh").arguments(["-c", &call]);
        program.argument(&recipe).argument(&output).succeeds();
        archives.push(fs::read(output).unwrap());
    }
    assert!(archives.iter().all(|archive| *archive == archives[0]));
    assert!(environment.temporary().read_dir().unwrap().next().is_none());
}

#[test]
fn the_busybox_archive_runs_its_applets() {
    requirement::bubblewrap();
    let environment = Environment::new();
    let output = environment.file("rootfs.tar.gz");
    let recipe = examples().join("images/busybox/build.sh");
    environment.program(recipe).argument(&output).succeeds();
    let rootfs = environment.add(&output);
    environment.ipfs_exec(["mkdir"]).succeeds();
    let script = "seq 3 | sort -r | tr '\\n' ' ' > /output/x; /bin/busybox.static true";
    let run = ["run", &rootfs, EMPTY, "sh", "-c", script];
    let cid = environment.ipfs_exec(run).succeeds().line();
    assert_eq!(environment.cat(&format!("{cid}/x")), b"3 2 1 ");
    environment
        .ipfs_exec(["run", &rootfs, EMPTY, "false"])
        .ends_with(1);
    environment.assert_clean();
}

#[test]
fn the_empty_image_is_the_empty_directory() {
    let environment = Environment::new();
    let made = environment
        .program(examples().join("images/empty/build.sh"))
        .variable("IPFS_EXEC", binary())
        .succeeds();
    assert_eq!(made.line(), EMPTY);
    let named = fs::read_to_string(examples().join("empty")).unwrap();
    assert_eq!(named.trim_end(), EMPTY);
}

/// A copy of the directory `examples` in an environment of its own.
struct Images {
    environment: Environment,
    directory: PathBuf,
}

impl Images {
    /// Nothing is built yet. The directory has a space in its name, which no recipe may mind.
    fn new() -> Images {
        requirement::bubblewrap();
        requirement::busybox();
        let make = requirement::tool("make", "make");
        let environment = Environment::new();
        let directory = environment.file("the examples");
        let copy = environment.program("cp").arguments(["-r", "-L"]);
        copy.argument(examples()).argument(&directory).succeeds();
        let clean = environment.program(make).argument("-C");
        clean.argument(&directory).argument("clean").succeeds();
        Images {
            environment,
            directory,
        }
    }

    /// Builds images, with `apk` if there is an Alpine repository.
    fn built(repository: bool) -> Images {
        let images = Images::new();
        if repository {
            images.make_repository();
        }
        images.make(repository).succeeds();
        images
    }

    fn make(&self, repository: bool) -> Invocation {
        let make = self.environment.program("make").argument("-C");
        let make = make
            .argument(&self.directory)
            .variable("IPFS_EXEC", binary())
            .variable("BUSYBOX", requirement::busybox());
        if repository {
            make.variable("ALPINE_REPOSITORY", self.repository())
        } else {
            make
        }
    }

    fn repository(&self) -> PathBuf {
        self.environment.file("alpine")
    }

    /// The content path in `examples/NAME`.
    fn path(&self, name: &str) -> String {
        let text = fs::read_to_string(self.directory.join(name)).unwrap();
        text.trim_end().to_owned()
    }

    /// A directory with `name` and the busybox image as `rootfs.tar.gz`.
    fn input(&self, name: &str, content: &Path) -> String {
        let content = self.environment.add(content);
        let busybox = self.path("busybox");
        let pairs = ["mkdir", name, &content, "rootfs.tar.gz", &busybox];
        self.environment.ipfs_exec(pairs).succeeds().line()
    }

    fn run(&self, image: &str, input: &str, packages: &[&str]) -> Invocation {
        let image = self.path(image);
        let run = self.environment.ipfs_exec(["run", &image, input]);
        run.arguments(packages)
    }

    /// A run that ends with one error, which names every one of `words`, and with an empty output.
    #[track_caller]
    fn refuses(&self, image: &str, input: &str, packages: &[&str], words: &[&str]) {
        let outcome = self.run(image, input, packages).ends_with(1);
        assert_eq!(outcome.line(), EMPTY, "{outcome:?}");
        let errors = outcome.errors();
        assert_eq!(errors.len(), 1, "not exactly one error\n{outcome:?}");
        for word in words {
            assert!(errors[0].contains(word), "no `{word}`\n{outcome:?}");
        }
    }

    /// What a shell script prints in the root file system that a run wrote.
    #[track_caller]
    fn says(&self, output: &str, script: &str) -> String {
        let rootfs = format!("{output}/rootfs.tar.gz");
        let script = format!("{{ {script}\n}} > /output/said");
        let run = ["run", &rootfs, EMPTY, "sh", "-c", &script];
        let cid = self.environment.ipfs_exec(run).succeeds().line();
        let said = self.environment.cat(&format!("{cid}/said"));
        String::from_utf8(said).unwrap()
    }

    /// Makes an Alpine repository with the stand-in and some packages.
    fn make_repository(&self) {
        let busybox = fs::read(requirement::busybox()).unwrap();
        let executable: &[(&str, &[u8])] = &[("sbin/apk.static", APK.as_bytes())];
        self.alpine_package("apk-tools-static", executable, &[]);
        self.alpine_package("busybox-static", &[("bin/busybox.static", &busybox)], &[]);
        let hello: &[(&str, &[u8])] = &[("usr/bin/hello", b"#!/bin/sh\ncat /usr/share/hello\n")];
        self.alpine_package("hello", hello, &[("DEPENDS", "so:hello.1 hello-data=1-r0")]);
        let data: &[(&str, &[u8])] = &[("usr/share/hello", b"hello from a package\n")];
        self.alpine_package("hello-data", data, &[("PROVIDES", "so:hello.1=1")]);
        let other: &[(&str, &[u8])] = &[("usr/share/other", b"")];
        self.alpine_package("owned", other, &[("OWNER", "0:42")]);
        self.alpine_package("scripted", other, &[("SCRIPT", "post-install")]);
        self.alpine_package("triggered", other, &[("SCRIPT", "trigger")]);
        self.alpine_package("lonely", other, &[("DEPENDS", "nothing")]);
        let hidden: &[(&str, &[u8])] = &[("opt/hidden", b"hidden content\n")];
        self.alpine_package("hidden", hidden, &[("MODE", "u-r")]);
        self.alpine("index").succeeds();
    }

    fn alpine(&self, command: &str) -> Invocation {
        let script = self.environment.write("repository.sh", REPOSITORY);
        let shell = self.environment.program("/bin/sh").argument(script);
        let directory = self.repository().join("x86_64");
        shell.argument(command).argument(directory)
    }

    fn alpine_package(&self, name: &str, files: &[(&str, &[u8])], variables: &[(&str, &str)]) {
        for (path, content) in files {
            let path = self
                .environment
                .write(format!("tree-{name}/{path}"), content);
            let chmod = self.environment.program("chmod").argument("755");
            chmod.argument(path).succeeds();
        }
        let mut package = self.alpine("package").argument(name).argument("1-r0");
        for (variable, value) in variables {
            package = package.variable(variable, value);
        }
        let tree = self.environment.file(format!("tree-{name}"));
        package.argument(tree).succeeds();
    }
}

#[test]
fn two_builds_give_the_same_images() {
    let builds = [("077", "Asia/Tokyo"), ("002", "America/Lima")].map(|(umask, zone)| {
        let images = Images::new();
        images.make_repository();
        let call = format!("umask {umask}; exec make -C \"$0\"");
        let shell = images.environment.program("/bin/sh");
        shell
            .arguments(["-c", &call])
            .argument(&images.directory)
            .variable("TZ", zone)
            .variable("IPFS_EXEC", binary())
            .variable("BUSYBOX", requirement::busybox())
            .variable("ALPINE_REPOSITORY", images.repository())
            .succeeds();
        images
    });
    for name in ["busybox", "deb", "apk"] {
        assert_eq!(builds[0].path(name), builds[1].path(name), "{name}");
        let cid = builds[0].path(name).replace("/rootfs.tar.gz", "");
        let pins = builds[0].environment.ipfs_exec(["pin", "ls", "--names"]);
        let pins = pins.succeeds();
        let pinned =
            |line: &&String| line.contains(&cid) && line.contains(&format!("examples/{name}"));
        assert_eq!(pins.lines().iter().filter(pinned).count(), 1, "{pins:?}");
    }
    builds[0].environment.assert_clean();
}

/// The package of Alpine and the busybox of this machine are the same program here.
#[test]
fn the_busybox_image_depends_only_on_its_busybox() {
    let images = Images::built(false);
    let from_debian = images.path("busybox");
    images.make_repository();
    images.make(true).succeeds();
    assert_eq!(images.path("busybox"), from_debian);
}

#[test]
fn make_builds_what_it_can_and_cleans_up() {
    let images = Images::new();
    let made = images.make(false).succeeds();
    assert!(made.stderr.contains("ALPINE_REPOSITORY"), "{made:?}");
    assert!(!images.directory.join("apk").exists());
    let failed = images.make(false).argument("apk").ends_with(2);
    assert!(
        failed.stderr.contains("error: apk needs an Alpine"),
        "{failed:?}"
    );
    assert!(!images.directory.join("apk").exists());
    let missing = images.make(false).variable("IPFS_EXEC", "/no/program");
    let missing = missing.ends_with(2);
    assert!(missing.stderr.contains("/no/program"), "{missing:?}");
    images.make(false).argument("clean").succeeds();
    for name in ["busybox", "deb", "apk"] {
        assert!(!images.directory.join(name).exists());
    }
    images.environment.assert_clean();
}

#[test]
fn apk_is_built_only_from_an_intact_package() {
    let images = Images::built(true);
    let package = images.repository().join("x86_64/apk-tools-static-1-r0.apk");
    let index = images.repository().join("x86_64/APKINDEX.tar.gz");
    let fails = |word: &str| {
        fs::remove_file(images.directory.join("apk")).unwrap_or_default();
        let outcome = images.make(true).argument("apk").ends_with(2);
        assert!(outcome.stderr.contains(word), "no `{word}`\n{outcome:?}");
        assert!(!images.directory.join("apk").exists());
    };
    let intact = fs::read(&package).unwrap();
    let mut damaged = intact.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&package, damaged).unwrap();
    fails("other files than its control data say");
    fs::write(&package, &intact[1..]).unwrap();
    fails("another size than the index says");
    fs::remove_file(&package).unwrap();
    fails("no file x86_64/apk-tools-static-1-r0.apk");
    fs::write(&index, "no archive").unwrap();
    fails("APKINDEX.tar.gz is damaged");
    fs::remove_file(&index).unwrap();
    fails("no index x86_64/APKINDEX.tar.gz");
}

/// The examples of the original, by the names of its tools.
#[test]
fn apk_installs_a_package_with_what_it_depends_on() {
    let images = Images::built(true);
    let tool = |name: &str, arguments: &[&str]| {
        let call = images.environment.ipfs_exec(arguments);
        call.called_as(name)
    };
    let repository = images.environment.add(images.repository());
    let (busybox, apk) = (images.path("busybox"), images.path("apk"));
    let session = "ls /input\necho blabla > /output/test\nexit\n";
    let output = tool("ipfs-execute", &[&busybox, &repository, "sh"]);
    let output = output.input(session).succeeds();
    assert_eq!(
        output.line(),
        "QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4"
    );

    let pairs = ["repository", &repository, "rootfs.tar.gz", &busybox];
    let input = tool("ipfs-mkdir", &pairs).succeeds().line();
    let [first, second] =
        [(); 2].map(|()| tool("ipfs-execute", &[&apk, &input, "hello"]).succeeds());
    assert!(first.stderr.contains("stand-in"), "{first:?}");
    assert_eq!(first.line(), second.line());
    assert_eq!(images.environment.names(&first.line()), ["rootfs.tar.gz"]);
    let said = images.says(&first.line(), "hello; ls /var/cache /var/log /lib/apk/db");
    assert!(said.starts_with("hello from a package\n"), "{said}");
    for left in ["lock", "apk.log", "APKINDEX"] {
        assert!(!said.contains(left), "{said}");
    }
    // The output is the root file system of a further installation.
    let rootfs = format!("{}/rootfs.tar.gz", first.line());
    let pairs = ["repository", &repository, "rootfs.tar.gz", &rootfs];
    let input = tool("ipfs-mkdir", &pairs).succeeds().line();
    images.run("apk", &input, &["hello-data"]).succeeds();
    images.environment.assert_clean();
}

/// The program that packs could not read them, and left them out without a word.
#[test]
fn files_that_their_owner_cannot_read_are_packed() {
    let images = Images::built(true);
    let input = images.input("repository", &images.repository());
    let output = images.run("apk", &input, &["hidden"]).succeeds().line();
    let said = images.says(&output, "cat /opt/hidden; stat -c %A /opt /opt/hidden");
    assert_eq!(said, "hidden content\ndrwxr-xr-x\n-rwxr-xr-x\n");
    images.environment.assert_clean();
}

#[test]
fn apk_refuses_what_it_cannot_install() {
    let images = Images::built(true);
    let input = images.input("repository", &images.repository());
    let refuses =
        |packages: &[&str], words: &[&str]| images.refuses("apk", &input, packages, words);
    refuses(&[], &["no package is named"]);
    refuses(&["--root=/"], &["--root=/"]);
    refuses(&["!hello"], &["!hello"]);
    refuses(&["unknown"], &["unknown"]);
    refuses(&["lonely"], &["lonely"]);
    refuses(&["owned"], &["owned", "0:42"]);
    refuses(&["scripted"], &["scripted", "post-install"]);
    refuses(&["triggered"], &["triggered", "trigger"]);
    images.refuses("apk", EMPTY, &["hello"], &["rootfs.tar.gz"]);
    let busybox = images.path("busybox");
    let alone = ["mkdir", "rootfs.tar.gz", &busybox];
    let alone = images.environment.ipfs_exec(alone).succeeds().line();
    images.refuses("apk", &alone, &["hello"], &["repository"]);
    let key = images.environment.write("key", "a key");
    let key = images.environment.add(key);
    let keys = ["mkdir", "keys", &key].into_iter().map(str::to_owned);
    let keys = images.environment.ipfs_exec(keys).succeeds().line();
    let keys = images.environment.ipfs_exec(["merge", &input, &keys]);
    let keys = keys.succeeds().line();
    images.refuses("apk", &keys, &["hello"], &["keys", "not a directory"]);

    let damaged = images.repository().join("x86_64/hello-1-r0.apk");
    let mut package = fs::read(&damaged).unwrap();
    *package.last_mut().unwrap() ^= 1;
    fs::write(&damaged, package).unwrap();
    let input = images.input("repository", &images.repository());
    images.refuses("apk", &input, &["hello"], &["hello"]);
    let index = images.repository().join("x86_64/APKINDEX.tar.gz");
    fs::write(&index, "no index").unwrap();
    let input = images.input("repository", &images.repository());
    let words = ["cannot read the index x86_64/APKINDEX.tar.gz"];
    images.refuses("apk", &input, &["hello"], &words);
    fs::remove_file(index).unwrap();
    let input = images.input("repository", &images.repository());
    images.refuses(
        "apk",
        &input,
        &["hello"],
        &["no index x86_64/APKINDEX.tar.gz"],
    );
    images.environment.assert_clean();
}

/// Downloads `file` of Debian and all packages that it depends on.
///
/// # Panics
/// If apt has no lists of packages, or no network.
fn download(environment: &Environment) -> PathBuf {
    requirement::tool("apt-get", "apt");
    let script = "apt-get download $(apt-cache depends --recurse --no-recommends --no-suggests \
         --no-conflicts --no-breaks --no-replaces --no-enhances file | grep '^[a-z]' | sort -u)";
    let directory = environment.directory("packages");
    let outcome = environment
        .program("/bin/sh")
        .arguments(["-c", script])
        .working_directory(&directory)
        .run();
    assert_eq!(
        outcome.code,
        Some(0),
        "cannot download packages; connect to a network and run as root: apt-get update\n{outcome:?}"
    );
    directory
}

#[test]
fn deb_installs_a_package_with_what_it_depends_on() {
    let images = Images::built(false);
    let packages = download(&images.environment);
    let input = images.input("packages", &packages);
    let [first, second] = [(); 2].map(|()| images.run("deb", &input, &["file"]).succeeds());
    assert_eq!(first.line(), second.line());
    assert!(first.stderr.contains("not executed: libc6"), "{first:?}");
    let said = images.says(&first.line(), "file /bin/busybox.static");
    assert!(
        said.starts_with("/bin/busybox.static: ELF 64-bit LSB"),
        "{said}"
    );

    let libc = fs::read_dir(&packages)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let libc = libc.filter(|path| path.to_string_lossy().contains("/libmagic1"));
    for path in libc {
        fs::remove_file(path).unwrap();
    }
    let input = images.input("packages", &packages);
    images.refuses("deb", &input, &["file"], &["libmagic1", "file depends"]);
    images.environment.assert_clean();
}

/// A Debian package of uncompressed members. `control` has more fields; each file has an owner.
fn deb(name: &str, version: &str, control: &str, files: &[(&str, u64)]) -> Vec<u8> {
    let head = format!("Package: {name}\nVersion: {version}\nArchitecture: all\n{control}");
    let control = tar(&[("./control", 0)], head.as_bytes());
    let data = tar(files, b"content\n");
    archive(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar", &control),
        ("data.tar", &data),
    ])
}

fn tar(files: &[(&str, u64)], content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, owner) in files {
        let mut header = tar::Header::new_ustar();
        // Not `set_path`, which refuses `..`.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(0o644);
        header.set_uid(*owner);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An `ar` archive.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let size = content.len();
        let header = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n",
            0, 0, 0, 100_644
        );
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        if size % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// A name, packages, arguments, and words of the error.
type Case<'a> = (&'a str, Vec<Vec<u8>>, &'a [&'a str], &'a [&'a str]);

/// Packages by what is wrong with them: the file names mean nothing.
#[test]
fn deb_refuses_what_it_cannot_install() {
    const FILE: &[(&str, u64)] = &[("./usr/share/x", 0)];
    let images = Images::built(false);
    let input = |name: &str, packages: &[Vec<u8>]| {
        for (number, package) in packages.iter().enumerate() {
            let path = format!("{name}/a b\n{number}.deb");
            images.environment.write(path, package);
        }
        images.input("packages", &images.environment.directory(name))
    };
    let good = deb("one", "1", "", FILE);
    let other = deb("two", "1", "", FILE);
    let compressed = archive(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar", &tar(&[("./control", 0)], b"Package: one\n")),
        ("data.tar.zst", b""),
    ]);
    let depends = |text: &str| deb("one", "1", &format!("Depends: {text}\n"), FILE);
    let cases: Vec<Case<'_>> = vec![
        ("none", vec![], &["one"], &["no package named one"]),
        ("name", vec![good.clone()], &["../one"], &["../one"]),
        (
            "missing",
            vec![depends("b | c (>= 2)")],
            &["one"],
            &["b | c (>= 2)", "one depends"],
        ),
        (
            "version",
            vec![depends("two (>> 1)"), other.clone()],
            &["one"],
            &["two (>> 1)"],
        ),
        (
            "conflict",
            vec![
                deb("one", "1", "Conflicts: v\n", &[]),
                deb("two", "1", "Provides: v\n", &[]),
            ],
            &["one", "two"],
            &["one conflicts", "two"],
        ),
        (
            "same",
            vec![good.clone(), other],
            &["one", "two"],
            &["one", "two", "/usr/share/x"],
        ),
        (
            "twice",
            vec![good.clone(), good.clone()],
            &["one"],
            &["two files", "one"],
        ),
        (
            "text",
            vec![b"no archive".to_vec()],
            &["one"],
            &["a b?0.deb"],
        ),
        (
            "cut",
            vec![good[..good.len() - 1].to_vec()],
            &["one"],
            &["a b?0.deb", "damaged"],
        ),
        (
            "zst",
            vec![compressed],
            &["one"],
            &["a b?0.deb", "data.tar.zst"],
        ),
        (
            "owned",
            vec![deb("one", "1", "", &[("./x", 42)])],
            &["one"],
            &["one", "belongs to"],
        ),
        (
            "dots",
            vec![deb("one", "1", "", &[("../x", 0)])],
            &["one"],
            &["one"],
        ),
        (
            "line",
            vec![deb("one", "1", "", &[("./x\ny", 0)])],
            &["one"],
            &["one"],
        ),
        (
            "bad",
            vec![deb("../one", "1", "", FILE)],
            &["one"],
            &["a b?0.deb", "no valid package"],
        ),
        (
            "odd",
            vec![deb("one", "1/2", "", FILE)],
            &["one"],
            &["one", "no valid version"],
        ),
    ];
    for (name, packages, arguments, words) in cases {
        images.refuses("deb", &input(name, &packages), arguments, words);
    }
    images.refuses("deb", EMPTY, &["one"], &["rootfs.tar.gz"]);

    // The highest version counts, as Debian compares versions.
    let versions = ["1.10~rc1", "1.10", "1.9"].map(|version| deb("one", version, "", FILE));
    let output = images.run("deb", &input("versions", &versions), &["one"]);
    let said = images.says(
        &output.succeeds().line(),
        "grep Version /var/lib/dpkg/status",
    );
    assert_eq!(said, "Version: 1.10\n");
    images.environment.assert_clean();
}
