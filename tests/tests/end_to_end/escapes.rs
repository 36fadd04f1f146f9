//! Ways out of the sandbox, tried from inside by system calls that no shell makes.

use std::fs::{self, File};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use ipfs_exec_tests::Archive;

use crate::machine::{Machine, compile};

/// Makes the call that its argument names, and prints the error, or `done`.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static char buffer[4096];

static long attack(const char *name) {
    struct timespec now = { 0, 0 };
    struct iovec part = { buffer, sizeof buffer };
    long parent = getppid();
    if (!strcmp(name, "add_key")) return syscall(SYS_add_key, "user", "name", "x", 1, -3);
    if (!strcmp(name, "keyctl")) return syscall(SYS_keyctl, 0, -3, 1);
    if (!strcmp(name, "request_key")) return syscall(SYS_request_key, "user", "name", 0, -3);
    if (!strcmp(name, "bpf")) return syscall(SYS_bpf, 0, buffer, 64);
    if (!strcmp(name, "perf_event_open")) return syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0);
    if (!strcmp(name, "userfaultfd")) return syscall(SYS_userfaultfd, 1);
    if (!strcmp(name, "io_uring_setup")) return syscall(SYS_io_uring_setup, 1, buffer);
    if (!strcmp(name, "mount")) return syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0);
    if (!strcmp(name, "umount2")) return syscall(SYS_umount2, "/proc", 2);
    if (!strcmp(name, "open_tree")) return syscall(SYS_open_tree, -100, "/", 1);
    if (!strcmp(name, "fsopen")) return syscall(SYS_fsopen, "tmpfs", 0);
    if (!strcmp(name, "pivot_root")) return syscall(SYS_pivot_root, "/tmp", "/tmp");
    if (!strcmp(name, "chroot")) return chroot("/tmp");
    if (!strcmp(name, "setns")) return syscall(SYS_setns, open("/proc/self/ns/user", O_RDONLY), 0);
    if (!strcmp(name, "unshare-user")) return unshare(CLONE_NEWUSER);
    if (!strcmp(name, "unshare-time")) return unshare(0x80);
    if (!strcmp(name, "unshare-files")) return unshare(CLONE_FILES);
    if (!strcmp(name, "clone-user")) return syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (!strcmp(name, "clone-net")) return syscall(SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0);
    if (!strcmp(name, "clone3")) return syscall(SYS_clone3, buffer, 64);
    if (!strcmp(name, "init_module")) return syscall(SYS_init_module, buffer, 1, "");
    if (!strcmp(name, "kexec_load")) return syscall(SYS_kexec_load, 0, 0, 0, 0);
    if (!strcmp(name, "reboot")) return syscall(SYS_reboot, 0xfee1dead, 672274793, 0, 0);
    if (!strcmp(name, "clock_settime")) return clock_settime(CLOCK_REALTIME, &now);
    if (!strcmp(name, "settimeofday")) return syscall(SYS_settimeofday, &now, 0);
    if (!strcmp(name, "personality")) return personality(PER_LINUX32);
    if (!strcmp(name, "syslog")) return syscall(SYS_syslog, 3, buffer, 100);
    if (!strcmp(name, "ptrace-parent")) return syscall(SYS_ptrace, 16, parent, 0, 0);
    if (!strcmp(name, "ptrace-seize")) return syscall(SYS_ptrace, 0x4206, parent, 0, 0);
    if (!strcmp(name, "read-parent")) return syscall(SYS_process_vm_readv, parent, &part, 1, &part, 1, 0);
    if (!strcmp(name, "kcmp")) return syscall(SYS_kcmp, parent, parent, 0, 0, 0);
    if (!strcmp(name, "open_by_handle_at")) return syscall(SYS_open_by_handle_at, -100, buffer, 0);
    if (!strcmp(name, "vsock")) return socket(40, SOCK_STREAM, 0);
    if (!strcmp(name, "alg")) return socket(38, SOCK_SEQPACKET, 0);
    if (!strcmp(name, "packet")) return socket(17, SOCK_RAW, 0);
    if (!strcmp(name, "pair-vsock")) return socketpair(40, SOCK_STREAM, 0, (int *)buffer);
    if (!strcmp(name, "netlink-audit")) return socket(AF_NETLINK, SOCK_RAW, 9);
    if (!strcmp(name, "netlink-route")) return socket(AF_NETLINK, SOCK_RAW, 0);
    if (!strcmp(name, "sctp")) return socket(AF_INET, SOCK_STREAM, 132);
    if (!strcmp(name, "mptcp")) return socket(AF_INET6, SOCK_STREAM, 262);
    if (!strcmp(name, "icmp6-of-4")) return socket(AF_INET, SOCK_DGRAM, 58);
    if (!strcmp(name, "tcp")) return socket(AF_INET, SOCK_STREAM, 6);
    if (!strcmp(name, "udp6")) return socket(AF_INET6, SOCK_DGRAM, 17);
    int file = open("/tmp/file", O_RDWR | O_CREAT, 0600);
    if (!strcmp(name, "TIOCSETD")) return ioctl(0, 0x5423, buffer);
    if (!strcmp(name, "FICLONE")) return ioctl(file, 0x40049409, 0);
    if (!strcmp(name, "FS_IOC_GETFLAGS")) return ioctl(file, 0x80086601, buffer);
    if (!strcmp(name, "TCGETS2")) return ioctl(file, 0x802c542a, buffer);
    if (!strcmp(name, "lease")) return fcntl(file, 1024, 1);
    if (!strcmp(name, "write-hint")) return fcntl(file, 1036, buffer);
    if (!strcmp(name, "notify")) return fcntl(open("/tmp", O_RDONLY), 1026, 1);
    if (!strcmp(name, "delegation")) return fcntl(open("/tmp", O_RDONLY), 1024 + 16, buffer);
    int ends[2];
    if (!strncmp(name, "pipe", 4) && pipe(ends)) return -1;
    if (!strcmp(name, "pipe-size")) return fcntl(ends[0], 1031, 1 << 20);
    if (!strcmp(name, "pipe-size-get")) return fcntl(ends[0], 1032);
    if (!strcmp(name, "lock")) return lockf(file, F_TLOCK, 0);
    if (!strcmp(name, "fallocate")) return fallocate(file, 0, 0, 1 << 20);
    if (!strcmp(name, "fallocate-keep")) return fallocate(file, 1, 0, 1 << 20);
    if (!strcmp(name, "fallocate-zero")) return fallocate(file, 0x10, 0, 1 << 20);
    if (!strcmp(name, "punch-hole")) return fallocate(file, 3, 0, 1 << 20);
    if (!strcmp(name, "huge-mmap")) return (long)mmap(0, 2 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (!strcmp(name, "huge-memfd")) return syscall(SYS_memfd_create, "x", 4);
    if (!strcmp(name, "huge-shm")) return shmget(IPC_PRIVATE, 2 << 20, IPC_CREAT | 04000 | 0600);
    if (!strcmp(name, "mmap")) return mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
    if (!strcmp(name, "sync")) { sync(); return 0; }
    if (!strcmp(name, "syncfs")) return syncfs(file);
    if (!strcmp(name, "io_setup")) return syscall(SYS_io_setup, 1, buffer);
    struct iovec page = { buffer, 1 };
    if (!strcmp(name, "vmsplice")) return vmsplice(ends[1], &page, 1, 0);
    if (!strcmp(name, "cachestat")) return syscall(451, file, buffer, buffer, 0);
    unsigned short nothing[4] = { 6, 0, 0, 0 };
    struct { unsigned short count; void *filter; } filter = { 1, nothing };
    int plain = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (!strcmp(name, "socket-filter")) return setsockopt(plain, SOL_SOCKET, 26, &filter, sizeof filter);
    if (!strcmp(name, "socket-bpf")) return setsockopt(plain, SOL_SOCKET, 50, &file, sizeof file);
    if (!strcmp(name, "port-filter")) return setsockopt(plain, SOL_SOCKET, 51, &filter, sizeof filter);
    if (!strcmp(name, "socket-buffer")) return setsockopt(plain, SOL_SOCKET, SO_RCVBUF, &(int){ 4096 }, 4);
    if (!strcmp(name, "seccomp")) return syscall(SYS_seccomp, 1, 0, &filter);
    if (!strcmp(name, "seccomp-listener")) return syscall(SYS_seccomp, 1, 8, &filter);
    if (!strcmp(name, "prctl-seccomp")) return syscall(SYS_prctl, 22, 2, &filter, 0, 0);
    if (!strcmp(name, "prctl-name")) return syscall(SYS_prctl, 15, "name", 0, 0, 0);
    if (!strcmp(name, "unix")) return socket(AF_UNIX, SOCK_STREAM, 0);
    if (!strcmp(name, "device")) return mknod("/tmp/device", S_IFBLK | 0600, 0x0800);
    if (!strcmp(name, "unknown")) return syscall(1000);
    if (!strcmp(name, "x32")) return syscall(0x40000000 | SYS_getpid);
    /* The kernel looks at the low half of a request. */
    if (!strcmp(name, "TIOCSTI")) return syscall(SYS_ioctl, 0, (unsigned long)TIOCSTI, "x");
    if (!strcmp(name, "TIOCSTI-high")) return syscall(SYS_ioctl, 0, TIOCSTI | 1UL << 32, "x");
    if (!strcmp(name, "TIOCSTI-all")) return syscall(SYS_ioctl, 0, TIOCSTI | ~0UL << 32, "x");
    if (!strcmp(name, "TIOCLINUX")) return syscall(SYS_ioctl, 0, (unsigned long)TIOCLINUX, "\3");
    if (!strcmp(name, "TIOCLINUX-high")) return syscall(SYS_ioctl, 0, TIOCLINUX | 1UL << 63, "\3");
    if (!strcmp(name, "setuid")) return setresuid(1, 1, 1);
    if (!strncmp(name, "@", 1)) {
        struct sockaddr_un address = { AF_UNIX };
        memcpy(address.sun_path + 1, name + 1, strlen(name + 1));
        return connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address,
                       sizeof(sa_family_t) + strlen(name));
    }
    errno = 999;
    return -1;
}

int main(int count, char **names) {
    for (int index = 1; index < count; index++) {
        fflush(stdout);
        long result = attack(names[index]);
        const char *error = result < 0 ? strerrorname_np(errno) : "done";
        printf("%s %s\n", names[index], error ? error : "?");
    }
    return 0;
}
"#;

fn machine() -> Machine {
    Machine::with(&Archive::busybox().file("bin/attack", 0o755, compile(SOURCE)))
}

/// What became of each attack.
#[track_caller]
fn outcomes(machine: &Machine, attacks: &[&str]) -> Vec<(String, String)> {
    let said = machine.says(&format!("attack {} < /dev/null", attacks.join(" ")));
    let pairs = said.lines().filter_map(|line| line.split_once(' '));
    let outcomes: Vec<_> = pairs
        .map(|(name, error)| (name.to_owned(), error.to_owned()))
        .collect();
    assert_eq!(outcomes.len(), attacks.len(), "{said}");
    outcomes
}

#[test]
fn calls_that_reach_for_the_kernel_are_refused() {
    let attacks = [
        "add_key",
        "keyctl",
        "request_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "mount",
        "umount2",
        "open_tree",
        "fsopen",
        "pivot_root",
        "chroot",
        "setns",
        "unshare-user",
        "unshare-time",
        "clone-user",
        "clone-net",
        "init_module",
        "kexec_load",
        "reboot",
        "clock_settime",
        "settimeofday",
        "personality",
        "syslog",
        "ptrace-parent",
        "ptrace-seize",
        "read-parent",
        "kcmp",
        "open_by_handle_at",
        "device",
        "TIOCSTI",
        "TIOCSTI-high",
        "TIOCSTI-all",
        "TIOCLINUX",
        "TIOCLINUX-high",
    ];
    for (name, error) in outcomes(&machine(), &attacks) {
        assert_eq!(error, "EPERM", "{name}");
    }
}

/// What depends on how a kernel was built fails as where it was built without.
#[test]
fn optional_kernel_features_are_absent() {
    for (attack, wanted) in [
        ("vsock", "EAFNOSUPPORT"),
        ("alg", "EAFNOSUPPORT"),
        ("packet", "EAFNOSUPPORT"),
        ("pair-vsock", "EAFNOSUPPORT"),
        ("netlink-audit", "EPROTONOSUPPORT"),
        ("netlink-route", "done"),
        ("sctp", "EPROTONOSUPPORT"),
        ("mptcp", "EPROTONOSUPPORT"),
        ("icmp6-of-4", "EPROTONOSUPPORT"),
        ("tcp", "done"),
        ("udp6", "done"),
        ("TIOCSETD", "ENOTTY"),
        ("FICLONE", "ENOTTY"),
        ("FS_IOC_GETFLAGS", "ENOTTY"),
        ("TCGETS2", "ENOTTY"),
        ("lease", "EINVAL"),
        ("write-hint", "EINVAL"),
        ("notify", "EINVAL"),
        ("delegation", "EINVAL"),
        ("pipe-size", "EINVAL"),
        ("pipe-size-get", "done"),
        ("lock", "done"),
        ("fallocate", "EOPNOTSUPP"),
        ("fallocate-keep", "EOPNOTSUPP"),
        ("fallocate-zero", "EOPNOTSUPP"),
        ("punch-hole", "done"),
        ("huge-mmap", "ENOMEM"),
        ("huge-memfd", "ENOMEM"),
        ("huge-shm", "ENOMEM"),
        ("mmap", "done"),
        // One of each: thousands of them once stopped a kernel.
        ("socket-filter", "EINVAL"),
        ("socket-bpf", "EINVAL"),
        ("port-filter", "EINVAL"),
        ("socket-buffer", "done"),
        ("seccomp", "EINVAL"),
        ("seccomp-listener", "EINVAL"),
        ("prctl-seccomp", "EINVAL"),
        ("prctl-name", "done"),
        ("sync", "done"),
        ("syncfs", "done"),
    ] {
        assert_eq!(outcomes(&machine(), &[attack])[0].1, wanted, "{attack}");
    }
}

/// Programs fall back to what they used before where a call is unknown.
#[test]
fn calls_that_are_unknown_do_not_exist() {
    let mut attacks = vec!["clone3", "unknown", "io_setup", "cachestat", "vmsplice"];
    if cfg!(target_arch = "x86_64") {
        attacks.push("x32");
    }
    for (name, error) in outcomes(&machine(), &attacks) {
        assert_eq!(error, "ENOSYS", "{name}");
    }
}

#[test]
fn harmless_calls_are_allowed() {
    for (name, error) in outcomes(&machine(), &["unix", "unshare-files"]) {
        assert_eq!(error, "done", "{name}");
    }
    // There is one user.
    assert_eq!(outcomes(&machine(), &["setuid"])[0].1, "EINVAL");
}

/// The processes of the sandbox are filtered, all of them, and none can get rid of that.
#[test]
fn the_filter_holds_for_every_process() {
    let said =
        machine().says("grep Seccomp: /proc/1/status; sh -c 'grep Seccomp: /proc/self/status'");
    assert_eq!(said, "Seccomp:\t2\nSeccomp:\t2\n");
}

#[test]
fn abstract_sockets_of_the_host_are_out_of_reach() {
    let name = format!("ipfs-exec-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let attack = format!("@{name}");
    assert_eq!(outcomes(&machine(), &[&attack])[0].1, "ECONNREFUSED");
}

/// What tells of the host is empty, or cannot be opened.
#[test]
fn the_proc_file_system_tells_of_the_sandbox() {
    let machine = machine();
    let said = machine.says(
        "for file in kcore keys key-users timer_list sched_debug latency_stats sysrq-trigger; do \
         [ ! -e /proc/$file ] || head -c 1 /proc/$file 2>/dev/null; done; \
         ls /proc/acpi /proc/scsi 2>/dev/null | grep -v : | grep .; :",
    );
    assert_eq!(said, "");
    let boot = machine.says("cat /proc/sys/kernel/random/boot_id");
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(boot.len(), host.len());
    assert_ne!(boot, host);
    assert_eq!(
        boot,
        self::machine().says("cat /proc/sys/kernel/random/boot_id")
    );
}

/// The roots and descriptors of processes lead nowhere else.
#[test]
fn no_process_leads_outside() {
    let machine = machine();
    let canary = machine.environment.write("canary", "canary");
    let _leaked = File::open(&canary).unwrap();
    let said = machine.says(&format!(
        "for link in /proc/[0-9]*/root /proc/[0-9]*/cwd; do ls $link/../..{0} $link{0}; done 2>/dev/null; \
         for link in /proc/[0-9]*/fd/*; do ls $link/{0}; done 2>/dev/null; \
         ls /oldroot /newroot {0} 2>/dev/null; :",
        canary.display()
    ));
    assert_eq!(said, "");
}

/// Addresses are the same each time: what a program prints or sorts by them is part of its result.
#[test]
fn memory_is_laid_out_the_same_way() {
    const SOURCE: &str = r#"
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) { int x; printf("%p %p %p\n", (void *)&x, malloc(10), (void *)main); return 0; }
    "#;
    let image = Archive::busybox().file("bin/where", 0o755, compile(SOURCE));
    let machine = Machine::with(&image);
    let first = machine.shell("where > /output/where");
    assert_eq!(machine.shell("where > /output/where"), first);
}

/// A program of root with the bit that makes others root stays what its caller is.
#[test]
fn set_id_bits_mean_nothing() {
    let machine = machine();
    let said = machine.says(
        "cp /bin/busybox /tmp/busybox; chmod 6755 /tmp/busybox; /tmp/busybox grep -E '^(Uid|CapEff|NoNewPrivs)' /proc/self/status",
    );
    assert_eq!(
        said,
        "Uid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n"
    );
}
