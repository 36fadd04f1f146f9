//! Determinism: the same job gives the same output for every user, in every place and at any time.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use ipfs_exec_tests::Environment;
use ipfs_exec_tests::environment::binary;
use rustix::process::geteuid;

use crate::machine::Machine;

/// What programs ask of the world around them. Each writes to its standard output.
const JOBS: [&str; 20] = [
    "env",
    "id; id -G; cat /proc/self/uid_map | wc -l",
    "umask; pwd; hostname; uname -n",
    "ls -la /input; cat /input/*/*",
    "find /input",
    "find /input/many -type f; for file in /input/many/*; do cat $file; done",
    "stat -c '%n %s %f %u %g %Y' /input /input/* /input/sub/*",
    "ls -l /proc/self/fd | wc -l",
    "ulimit -a | grep -v processes",
    "cat /proc/sys/kernel/random/boot_id",
    "ls -la /output /tmp | grep -v ' \\.'  | sed 's/ [A-Z][a-z][a-z] .*//'",
    "touch /output/b /output/a; mkdir /output/d; chmod 700 /output/a; date -d @0",
    "date +%Z; date -d '2020-01-01 12:00' +%s",
    "echo ä ö | tr a-z A-Z; printf '%.2f\\n' 1.5; echo B a C b | tr ' ' '\\n' | sort",
    "echo $$ $PPID; sh -c 'echo $$'",
    "cat /proc/1/cmdline | tr '\\0' ' '; cat /proc/1/environ | tr '\\0' '\\n' | sort",
    "nproc",
    "mount | grep -c . > /dev/null; cut -d ' ' -f 5 /proc/self/mountinfo | grep -v /proc/ | sort",
    "cat /proc/self/cgroup | sed 's/^.*:://'; cat /proc/self/status | grep -E '^(Cap|NoNew|Seccomp:|Sig)'",
    "ls -la /dev | awk '{ print $1, $NF }'; ls -la / | awk '{ print $1, $NF }'",
];

/// The surroundings of a run.
#[derive(Clone, Copy, Debug, Default)]
struct World<'w> {
    variables: &'w [(&'w str, &'w str)],
    umask: u32,
    nice: i32,
    /// The name of the host, where it can be changed.
    name: Option<&'w str>,
    /// Whether an ordinary user runs it, where root may.
    is_ordinary: bool,
    groups: &'w str,
}

const WORLDS: [World<'_>; 4] = [
    World {
        variables: &[],
        umask: 0o022,
        nice: 0,
        name: None,
        is_ordinary: false,
        groups: "0",
    },
    World {
        variables: &[
            ("TZ", "Asia/Kathmandu"),
            ("LANG", "de_DE.UTF-8"),
            ("LC_ALL", "tr_TR.UTF-8"),
            ("HOME", "/nowhere"),
        ],
        umask: 0o077,
        nice: 10,
        name: Some("elsewhere"),
        is_ordinary: false,
        groups: "0,4,24,27",
    },
    World {
        variables: &[
            ("TZ", "America/St_Johns"),
            ("SECRET", "secret"),
            ("PATH_INFO", "x"),
        ],
        umask: 0o002,
        nice: 5,
        name: None,
        is_ordinary: true,
        groups: "65534,100",
    },
    World {
        variables: &[
            ("TMPDIR", "/var/tmp"),
            ("POSIXLY_CORRECT", "1"),
            ("SOURCE_DATE_EPOCH", "1"),
        ],
        umask: 0o000,
        nice: 19,
        name: Some("third.example"),
        is_ordinary: true,
        groups: "65534",
    },
];

#[test]
fn twenty_jobs_in_four_worlds() {
    let machine = Machine::new();
    let giver = &machine.environment;
    giver.write("input/sub/file", "content");
    giver.write("input/other/file", "other\n");
    for number in 0..50 {
        giver.write(format!("input/many/{}", number * 7919 % 50), "");
    }
    let input = giver.add("input");
    let mut all = Vec::new();
    for (index, world) in WORLDS.iter().enumerate() {
        let own = Environment::new();
        let place = own.file("deep/".repeat(index) + "repository");
        for cid in [&machine.rootfs, &input] {
            let exported = giver.ipfs_exec(["export", cid]).succeeds();
            own.write("content.car", exported.stdout);
            own.ipfs_exec(["--repo"])
                .argument(&place)
                .arguments(["import", "content.car"])
                .succeeds();
        }
        let is_loaded = AtomicBool::new(index > 0);
        let cids: Vec<String> = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Somebody else computes meanwhile.
                while is_loaded.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let cids = JOBS.iter().map(|job| {
                let script = format!("{{ {job}\n}} > /output/said 2>&1");
                compute(
                    *world,
                    &place,
                    [&machine.rootfs, &input, "sh", "-c", &script],
                )
            });
            let cids = cids.collect();
            is_loaded.store(false, Ordering::Relaxed);
            cids
        });
        all.push((own, place, cids));
    }
    for (index, job) in JOBS.iter().enumerate() {
        let said: Vec<_> = all
            .iter()
            .zip(WORLDS)
            .map(|((_, place, cids), world)| {
                let path = format!("{}/said", cids[index]);
                read(world, place, &path)
            })
            .collect();
        for (other, (_, _, cids)) in all.iter().enumerate() {
            assert_eq!(
                cids[index], all[0].2[index],
                "`{job}` in world {other}:\n{}\nand in the first:\n{}",
                said[other], said[0]
            );
        }
    }
}

/// Runs a job, and gives the CID of its output.
#[track_caller]
fn compute(world: World<'_>, place: &std::path::Path, arguments: [&str; 5]) -> String {
    let may_change = geteuid().is_root();
    let mut words: Vec<String> = Vec::new();
    if let Some(name) = world.name.filter(|_| may_change) {
        let script = format!("hostname {name}; exec \"$@\"");
        words.extend(["unshare", "--uts", "sh", "-c", &script, "sh"].map(Into::into));
    }
    if may_change {
        let user = if world.is_ordinary { "65534" } else { "0" };
        words.push("setpriv".into());
        words.extend([
            format!("--reuid={user}"),
            format!("--regid={user}"),
            format!("--groups={}", world.groups),
        ]);
        if world.is_ordinary {
            hand_over(place);
        }
    }
    words.extend(["nice".into(), "-n".into(), world.nice.to_string()]);
    let mut command = Command::new("sh");
    let program = if world.is_ordinary && may_change {
        reachable(place)
    } else {
        binary()
    };
    let script = format!("umask {:o}; exec \"$@\"", world.umask);
    command.args(["-c", &script, "sh"]).args(words).arg(program);
    command
        .arg("--repo")
        .arg(place)
        .args(["--offline", "run", "--cpus", "1"])
        .args(arguments);
    command
        .env_clear()
        .env("PATH", ipfs_exec_tests::environment::SEARCH_PATH);
    command.envs(world.variables.iter().copied());
    command.stdin(Stdio::null());
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{world:?}: {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Reads from a repository, as its owner.
#[track_caller]
fn read(world: World<'_>, place: &std::path::Path, path: &str) -> String {
    let mut words: Vec<std::ffi::OsString> = Vec::new();
    if world.is_ordinary && geteuid().is_root() {
        let owner = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        words.extend(owner.map(Into::into));
        words.push(reachable(place).into());
    } else {
        words.push(binary().into());
    }
    let output = Command::new(&words[0])
        .args(&words[1..])
        .arg("--repo")
        .arg(place)
        .args(["cat", path])
        .env_clear()
        .env("PATH", ipfs_exec_tests::environment::SEARCH_PATH)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{world:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Gives a repository to another user.
fn hand_over(place: &std::path::Path) {
    let outcome = Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(place)
        .status();
    assert!(outcome.unwrap().success());
    for parent in place
        .ancestors()
        .skip(1)
        .filter(|parent| parent.starts_with(std::env::temp_dir()))
    {
        let outcome = Command::new("chmod").arg("a+x").arg(parent).status();
        assert!(outcome.unwrap().success() || parent == std::env::temp_dir());
    }
}

/// The program where another user can execute it.
fn reachable(place: &std::path::Path) -> std::path::PathBuf {
    let copy = place.with_file_name("program");
    if !copy.exists() {
        std::fs::copy(binary(), &copy).unwrap();
    }
    copy
}
