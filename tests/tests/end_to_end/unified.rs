//! Limits held by control groups of version 2, on a kernel that was booted for it.

use ipfs_exec_tests::environment::binary;
use ipfs_exec_tests::{Archive, requirement, vm};
use serde_json::Value;

use crate::machine::compile;
use crate::memory::HOG;

/// Runs each attack with its limit; prints who ran it, which limit, the exit code and the JSON.
const ATTACKS: &str = r#"
who=$1
export IPFS_EXEC_PATH=/tmp/repository-$who
rootfs=$(ipfs-exec add -Q /rootfs.tar)
input=$(ipfs-exec mkdir)
attack() {
    name=$1 limits=$2
    shift 2
    ipfs-exec run --json --input-mode copy $limits $rootfs $input "$@" > /tmp/out-$who 2> /tmp/err-$who
    code=$?
    [ $code != 125 ] || cat /tmp/err-$who
    echo "$who $name $code $(cat /tmp/out-$who)"
}
attack memory "--memory 32MiB" tail -n 1 /dev/zero
attack shared "--memory 32MiB" dd if=/dev/zero of=/dev/shm/file bs=1M
for way in pipes sockets memfd tables; do
    attack $way "--memory 32MiB" sh -c "hog $way & wait; sleep 60"
done
attack machine "" tail -n 1 /dev/zero
attack pids "--pids 30" sh -c 'f() { f | f & }; f; sleep 600'
attack cpu-time "--cpu-time 2s" sh -c 'while :; do :; done'
attack cpus "--cpus 0.5 --cpu-time 60s --pids 100 --memory 64MiB" sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done'
find /sys/fs/cgroup -name 'ipfs-exec-*' ! -name '*.scope' | sed "s/^/$who left /"
"#;

const SCRIPT: &str = r#"
cd /sys/fs/cgroup
echo '+memory +pids +cpu' > cgroup.subtree_control
sh /attacks root
# A part for the user, as a login manager makes it, with a group for the processes of the session.
mkdir -p user/session
chown user:user user user/* user/session/*
echo $$ > user/session/cgroup.procs
su user -c 'sh /attacks user'
"#;

#[test]
fn limits_are_held_as_root_and_in_a_delegated_group() {
    let archive = rootfs();
    let (binary, bubblewrap) = (binary(), requirement::tool("bwrap", "bubblewrap"));
    let programs = [("ipfs-exec", &*binary), ("bwrap", &*bubblewrap)];
    let files = [
        ("rootfs.tar", &archive[..]),
        ("attacks", ATTACKS.as_bytes()),
    ];
    let said = vm::run(SCRIPT, &programs, &files);
    check("root", &said);
    check("user", &said);
}

fn rootfs() -> Vec<u8> {
    let hog = compile(HOG);
    Archive::busybox().file("bin/hog", 0o755, hog).tar()
}

/// That each limit was held by a group, of which none is left.
#[track_caller]
fn check(who: &str, said: &str) {
    for (name, limit, code) in [
        ("memory", "memory", "137"),
        ("shared", "memory", "137"),
        ("pipes", "memory", "137"),
        ("sockets", "memory", "137"),
        ("memfd", "memory", "137"),
        ("tables", "memory", "137"),
        // Nobody gave a limit: the machine goes on.
        ("machine", "machine-memory", "137"),
        ("pids", "pids", "137"),
        ("cpu-time", "cpu-time", "124"),
    ] {
        let outcome = outcome(said, who, name, code);
        assert_eq!(outcome["limit"], limit, "{said}");
    }
    let outcome = outcome(said, who, "cpus", "0");
    let held = outcome["limits"].as_array().unwrap();
    for limit in ["memory", "cpus", "cpu-time", "pids"] {
        let held = held.iter().find(|held| held["limit"] == limit).unwrap();
        assert_eq!(held["held_by"], "cgroup-v2", "{limit} of {who}\n{said}");
    }
    assert!(outcome["usage"]["peak_memory_bytes"].as_u64().unwrap() > 0);
    assert!(!said.contains(" left "), "groups are left\n{said}");
}

/// Units of a service manager that starts a message bus, and nothing else.
const UNITS: [(&str, &str); 5] = [
    ("default.target", "[Unit]\nRequires=dbus.service\n"),
    ("basic.target", "[Unit]\n"),
    ("shutdown.target", "[Unit]\nDefaultDependencies=no\n"),
    ("dbus.socket", "[Socket]\nListenStream=%t/bus\n"),
    (
        "dbus.service",
        "[Unit]\nRequires=dbus.socket\n[Service]\nType=notify\n\
         ExecStart=/bin/dbus-daemon --config-file=/etc/bus --nofork --address=systemd: --systemd-activation\n",
    ),
];

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;

/// A user whose login has a session, which is not his to divide, and a service manager, which has a part
/// that is.
const MANAGED: &str = r#"
cd /sys/fs/cgroup
echo '+memory +pids +cpu' > cgroup.subtree_control
mkdir -p login/session login/manager
echo '+memory +pids +cpu' > login/cgroup.subtree_control
chown user:user login/cgroup.procs login/manager login/manager/*
# What the manager looks for: a machine that was booted by one.
mkdir -p /run/systemd/system /run/user/1000
chown user:user /run/user/1000
chmod 700 /run/user/1000
echo 0123456789abcdef0123456789abcdef > /etc/machine-id
export XDG_RUNTIME_DIR=/run/user/1000
(
    echo 0 > login/manager/cgroup.procs
    exec su user -c 'exec systemd --user --log-target=console'
) > /tmp/manager 2>&1 &
timeout 60 sh -c 'until [ -S /run/user/1000/bus ]; do sleep 0.1; done'
echo $$ > login/session/cgroup.procs
su user -c 'sh /attacks user'
cat /proc/self/cgroup
cat /tmp/manager
"#;

#[test]
fn limits_are_held_in_a_scope_of_the_service_manager() {
    let archive = rootfs();
    let (binary, bubblewrap) = (binary(), requirement::tool("bwrap", "bubblewrap"));
    let manager = requirement::tool("/lib/systemd/systemd", "systemd");
    let bus = requirement::tool("dbus-daemon", "dbus-daemon");
    let programs = [
        ("ipfs-exec", &*binary),
        ("bwrap", &*bubblewrap),
        ("systemd", &*manager),
        ("dbus-daemon", &*bus),
    ];
    let units = UNITS.map(|(name, text)| (format!("etc/systemd/user/{name}"), text));
    let mut files = vec![
        ("rootfs.tar", &archive[..]),
        ("attacks", ATTACKS.as_bytes()),
        ("etc/bus", BUS.as_bytes()),
    ];
    files.extend(
        units
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_bytes())),
    );
    let said = vm::run(MANAGED, &programs, &files);
    check("user", &said);
}

/// What an attack gave, which ended with `code`.
#[track_caller]
fn outcome(said: &str, who: &str, name: &str, code: &str) -> Value {
    let start = format!("{who} {name} {code} ");
    let line = said.lines().find_map(|line| line.strip_prefix(&start));
    let line = line.unwrap_or_else(|| panic!("no `{start}` in\n{said}"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}
