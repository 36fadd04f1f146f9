//! Each promise of the sandbox, attacked.

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;

use rustix::io::FdFlags;

use crate::machine::{EMPTY, Machine};

#[test]
fn the_root_holds_the_image_and_the_mount_points() {
    let machine = Machine::new();
    assert_eq!(
        machine.says("ls -A /"),
        "bin\ndev\ninput\noutput\nproc\nsbin\ntmp\n"
    );
    assert_eq!(
        machine.says("ls -A /input /tmp; find /output -mindepth 1 | grep -v said || :"),
        "/input:\n\n/tmp:\n"
    );
}

#[test]
fn the_program_is_root_of_nothing() {
    let machine = Machine::new();
    assert_eq!(machine.says("id -u; id -g"), "0\n0\n");
    let status = machine.says("cat /proc/self/status");
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name} in\n{status}"))
            .split_once(':')
            .unwrap()
            .1
            .trim()
    };
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
}

#[test]
fn init_is_pid_1_and_sees_no_other_process() {
    let machine = Machine::new();
    assert_eq!(machine.says("echo $$; cd /proc; echo [0-9]*"), "1\n1\n");
}

#[test]
fn there_is_no_network() {
    let machine = Machine::new();
    let links = machine.says("ip -o link");
    assert_eq!(links.lines().count(), 1, "{links}");
    assert!(links.contains("lo:"), "{links}");
    // The loopback device is another one than that of the host.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = machine.says(&format!(
        "busybox nc -w 2 127.0.0.1 {port} < /dev/null || echo refused"
    ));
    assert_eq!(said, "refused\n");
}

#[test]
fn everything_but_output_and_tmp_is_read_only() {
    let machine = Machine::new();
    machine.environment.write("input/hello", "hello");
    let input = machine.environment.add("input");
    let attempts = [
        "touch /new",
        "mkdir /new",
        "touch /bin/new",
        "rm /bin/ls",
        "echo x >> /sbin/init",
        "chmod 700 /bin/busybox",
        "mv /bin /other",
        "touch /input/new",
        "rm /input/hello",
        "echo x >> /input/hello",
        "chmod 777 /input/hello",
        "chmod 777 /input",
        "mount -o remount,rw /",
        "mount -o remount,rw /input",
        "mount -t tmpfs none /tmp",
        "umount /input",
        "umount /proc",
        "mknod /output/null c 1 3",
        "mknod /tmp/disk b 8 0",
        "hostname other",
    ];
    for attempt in attempts {
        let script =
            format!("if ( {attempt} ) 2>/tmp/why; then exit 7; fi; cat /input/hello > /output/x");
        let outcome = machine.run_on(&input, ["sh", "-c", &script]).run();
        assert_eq!(outcome.code, Some(0), "`{attempt}` succeeded\n{outcome:?}");
    }
    for attempt in ["echo x > /output/new", "echo x > /tmp/new && mkdir /tmp/d"] {
        machine.run_on(&input, ["sh", "-c", attempt]).succeeds();
    }
    assert_eq!(machine.environment.cat(&format!("{input}/hello")), b"hello");
    machine.environment.assert_clean();
}

/// Bubblewrap leaves `/proc/sys` writable where the caller is root: its files ask for the user, not
/// for capabilities, and root of the sandbox is then root of the host. A `core_pattern` would run
/// programs outside.
#[test]
fn the_kernel_cannot_be_configured() {
    let machine = Machine::new();
    // Opening is enough; nothing is written, so that a failure does no harm.
    let said = machine.says(
        "find /proc /sys -path '/proc/[0-9]*' -prune -o -path /proc/self -prune -o -type f -print \
         2>/dev/null > /tmp/files; test -s /tmp/files; \
         while read -r file; do (: >> \"$file\") 2>/dev/null && echo \"$file\"; done < /tmp/files; :",
    );
    assert_eq!(said, "", "these can be opened for writing");
}

#[test]
fn the_caches_are_not_changed_by_a_run() {
    let machine = Machine::new();
    assert_eq!(
        machine.says("ls -A /tmp; touch /tmp/left; ls -A /tmp"),
        "left\n"
    );
    assert_eq!(
        machine.says("ls -A /tmp"),
        "",
        "a run sees the files of the one before"
    );
}

#[test]
fn user_namespaces_cannot_be_made() {
    let machine = Machine::new();
    for attempt in [
        "unshare -U true",
        "unshare -Ur true",
        "unshare -Urm true",
        "unshare -Urn true",
    ] {
        let said = machine.says(&format!(
            "{attempt} 2>/dev/null && echo made || echo refused"
        ));
        assert_eq!(said, "refused\n", "{attempt}");
    }
    for attempt in ["unshare -m true", "unshare -n true", "unshare -p true"] {
        let said = machine.says(&format!(
            "{attempt} 2>/dev/null && echo made || echo refused"
        ));
        assert_eq!(said, "refused\n", "{attempt}");
    }
}

#[test]
fn only_three_descriptors_are_open() {
    let machine = Machine::new();
    // Descriptors that the caller forgot to close, one of them a directory outside.
    let leaked = [File::open("/").unwrap(), File::open("/etc/passwd").unwrap()];
    for file in &leaked {
        rustix::io::fcntl_setfd(file, FdFlags::empty()).unwrap();
    }
    // `ls` itself opens the directory that it reads, and gets the lowest free number.
    let said = machine.says("exec ls /proc/self/fd");
    assert_eq!(said, "0\n1\n2\n3\n");
    let said = machine
        .says("for n in 3 4 5 6 7 8 9; do [ ! -e /proc/1/fd/$n ] || readlink /proc/1/fd/$n; done");
    assert_eq!(
        said.lines()
            .filter(|line| !line.contains("/dev/null"))
            .count(),
        0,
        "{said}"
    );
    drop(leaked);
}

#[test]
fn the_host_name_is_sandbox() {
    assert_eq!(Machine::new().says("hostname"), "sandbox\n");
}

#[test]
fn devices_are_few() {
    let known = [
        "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
        "stderr", "stdin", "stdout", "tty", "urandom", "zero",
    ];
    let devices = Machine::new().says("ls -A /dev");
    for device in devices.lines() {
        assert!(known.contains(&device), "{device} in\n{devices}");
    }
    assert!(devices.contains("null"), "{devices}");
}

#[test]
fn files_of_the_host_are_out_of_reach() {
    let machine = Machine::new();
    let secret = machine.environment.write("secret", "secret");
    let repository = machine.environment.repository().to_owned();
    let script = format!(
        "ls {} {} /oldroot /newroot /root /home /etc 2>/dev/null; cat {} /proc/1/root/etc/passwd 2>/dev/null || :",
        repository.display(),
        machine.environment.home().display(),
        secret.display()
    );
    assert_eq!(machine.says(&script), "");
}

#[test]
fn nothing_outlives_init() {
    let machine = Machine::new();
    // Unlike any other command line on this machine.
    let marker = format!("8640{}", std::process::id());
    let script = format!("sleep {marker} & sleep 0.2; setsid sleep {marker} & sleep 0.2");
    machine.run(["sh", "-c", &script]).succeeds();
    assert_eq!(processes_with(&marker), Vec::<String>::new());
    machine.environment.assert_clean();
}

#[test]
fn a_process_that_init_left_cannot_change_the_output() {
    let machine = Machine::new();
    let script =
        "(while :; do echo x >> /output/growing; done) & sleep 0.2; echo done > /output/done";
    let cid = machine.shell(script);
    let stat = machine
        .environment
        .ipfs_exec(["stat", "--json", &format!("{cid}/growing")])
        .succeeds();
    let size = stat.json()[0]["size"].as_u64().unwrap();
    assert_eq!(
        machine.environment.cat(&format!("{cid}/growing")).len() as u64,
        size
    );
    machine.environment.assert_clean();
}

#[test]
fn runs_of_one_image_do_not_meet() {
    let machine = Machine::new();
    let mut first = machine
        .run([
            "sh",
            "-c",
            "echo mine > /tmp/file; echo ready >&2; read line; cat /tmp/file > /output/x",
        ])
        .start();
    first.wait_for("ready");
    assert_eq!(
        machine.says("ls /tmp /output | grep -v said; ps | grep -c 'read lin[e]' || :"),
        "/output:\n\n/tmp:\n0\n"
    );
    let outcome = first.wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_ne!(outcome.line(), EMPTY);
}

/// The command lines on this machine that hold `marker`.
pub(crate) fn processes_with(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let mut line = Vec::new();
        let path = entry.unwrap().path().join("cmdline");
        // A process that ends while it is looked at is none.
        if File::open(path)
            .and_then(|mut file| file.read_to_end(&mut line))
            .is_ok()
        {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(marker) {
                found.push(line);
            }
        }
    }
    found
}
