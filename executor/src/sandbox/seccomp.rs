//! The system calls that a program may make: a pure value.
//!
//! The filters are an allow-list in the spirit of container runtimes. A call on none of the lists below may
//! exist in this kernel and is unknown to us. It fails with `ENOSYS`, so that programs fall back to an older
//! call. A known call that is refused fails with `EPERM`, as without the capability for it. Some calls,
//! requests and commands depend on build options of the kernel. They fail as in a kernel without the option.
//! A call by the table of another architecture ends the process.
//!
//! The stub loads the filters last of all, just before it executes the program. No process inside can remove
//! them. The reasons for each refusal stand in [`security`](crate::security).

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, sock_filter,
};
use syscalls::Sysno;

use super::call_set;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("no system call filter was made for this architecture");

/// Calls that are allowed; some of them with certain arguments alone, as further filters say. Some exist
/// on one architecture alone.
const ALLOWED: &str = "
    accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown
    clock_getres clock_gettime clock_nanosleep clone close close_range connect copy_file_range creat dup
    dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod
    fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr
    fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
    futimesat get_robust_list getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier
    memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect
    mremap mseal msgctl
    msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2
    pause personality pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 ptrace pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg
    sendmsg sendto set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setitimer
    setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socket socketpair
    splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat unshare utime utimensat
    utimes vfork wait4 waitid write writev
";

/// Calls that are refused with `EPERM`. Most of them need a capability that nobody has inside: the
/// filter stands in front of what the kernel would say.
const REFUSED: &str = "
    _sysctl acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init
    fanotify_mark finit_module fsconfig fsmount fsopen fspick get_mempolicy init_module
    io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load
    keyctl listmount lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr
    mbind memfd_secret migrate_pages mount mount_setattr move_mount move_pages name_to_handle_at
    nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root
    process_madvise process_vm_readv process_vm_writev quotactl quotactl_fd reboot request_key
    set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday statmount
    swapoff swapon sysfs syslog umount2 uselib userfaultfd ustat vhangup
";

/// Calls that succeed and do nothing. The caller's groups cannot be given up without privileges, and
/// belong to nobody inside: `getgroups` gives none. `sync` would write what others have to write.
const PRETENDED: &str = "getgroups sync syncfs";

/// Flags of `clone` and `unshare` that make namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// The one flag more that `unshare` knows; among those of `clone` it is part of a signal number.
const TIME_NAMESPACE: u64 = 0x80;

/// Asks `personality` what it is, and changes nothing.
const PERSONALITY_QUERY: u64 = 0xffff_ffff;

/// The ways of `ptrace` to take hold of a process that did not ask for it.
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;

/// Requests of `ioctl` that push input into a terminal, for its owner to execute.
const PUSHES_INPUT: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// Requests of `ioctl` that are allowed: those of terminals, but for `TIOCSETD`, which loads drivers; those
/// of all descriptors; and those that ask for addresses of the sandbox's own network. Others ask file
/// systems and devices of the host.
const REQUESTS: [u64; 54] = [
    0x5401,      // TCGETS
    0x5402,      // TCSETS
    0x5403,      // TCSETSW
    0x5404,      // TCSETSF
    0x5405,      // TCGETA
    0x5406,      // TCSETA
    0x5407,      // TCSETAW
    0x5408,      // TCSETAF
    0x5409,      // TCSBRK
    0x540a,      // TCXONC
    0x540b,      // TCFLSH
    0x540c,      // TIOCEXCL
    0x540d,      // TIOCNXCL
    0x540e,      // TIOCSCTTY
    0x540f,      // TIOCGPGRP
    0x5410,      // TIOCSPGRP
    0x5411,      // TIOCOUTQ
    0x5413,      // TIOCGWINSZ
    0x5414,      // TIOCSWINSZ
    0x541b,      // FIONREAD
    0x5420,      // TIOCPKT
    0x5421,      // FIONBIO
    0x5422,      // TIOCNOTTY
    0x5424,      // TIOCGETD
    0x5425,      // TCSBRKP
    0x5427,      // TIOCSBRK
    0x5428,      // TIOCCBRK
    0x5429,      // TIOCGSID
    0x802c_542a, // TCGETS2
    0x402c_542b, // TCSETS2
    0x402c_542c, // TCSETSW2
    0x402c_542d, // TCSETSF2
    0x8004_5430, // TIOCGPTN
    0x4004_5431, // TIOCSPTLCK
    0x4004_5436, // TIOCSIG
    0x8004_5438, // TIOCGPKT
    0x8004_5439, // TIOCGPTLCK
    0x8004_5440, // TIOCGEXCL
    0x5441,      // TIOCGPTPEER
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
    0x5452,      // FIOASYNC
    0x8905,      // SIOCATMARK
    0x8910,      // SIOCGIFNAME
    0x8912,      // SIOCGIFCONF
    0x8913,      // SIOCGIFFLAGS
    0x8915,      // SIOCGIFADDR
    0x8919,      // SIOCGIFBRDADDR
    0x891b,      // SIOCGIFNETMASK
    0x8921,      // SIOCGIFMTU
    0x8927,      // SIOCGIFHWADDR
    0x8933,      // SIOCGIFINDEX
    0x8942,      // SIOCGIFTXQLEN
    0x8970,      // SIOCGIFMAP
];

/// Commands of `fcntl` that are allowed. Others set leases, watches and hints, which a file has for all
/// who use it, or enlarge pipes, whose pages a user has in all.
const COMMANDS: [u64; 21] = [
    0,    // F_DUPFD
    1,    // F_GETFD
    2,    // F_SETFD
    3,    // F_GETFL
    4,    // F_SETFL
    5,    // F_GETLK
    6,    // F_SETLK
    7,    // F_SETLKW
    8,    // F_SETOWN
    9,    // F_GETOWN
    10,   // F_SETSIG
    11,   // F_GETSIG
    15,   // F_SETOWN_EX
    16,   // F_GETOWN_EX
    36,   // F_OFD_GETLK
    37,   // F_OFD_SETLK
    38,   // F_OFD_SETLKW
    1030, // F_DUPFD_CLOEXEC
    1032, // F_GETPIPE_SZ
    1033, // F_ADD_SEALS
    1034, // F_GET_SEALS
];

/// The mode of `fallocate` that is allowed: it makes holes. Others take disk without writing it, faster
/// than anybody can look.
const MAKES_HOLES: u64 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;

/// Flags that ask for huge pages, of which the host has few: of `mmap`, `memfd_create` and `shmget`.
const HUGE_PAGES: [(Sysno, u8, u64); 3] = [
    (Sysno::mmap, 3, libc::MAP_HUGETLB as u64),
    (Sysno::memfd_create, 1, libc::MFD_HUGETLB as u64),
    (Sysno::shmget, 2, libc::SHM_HUGETLB as u64),
];

/// Options of sockets that load a filter: `SO_ATTACH_FILTER`, `SO_ATTACH_BPF` and those of groups that
/// share a port. Compiled filters of all users come from one pool of the kernel, and thousands that are
/// freed at once stop it.
const FILTER_OPTIONS: [u64; 4] = [26, 50, 51, 52];

/// The mode of `prctl(PR_SET_SECCOMP)` and the operation of `seccomp` that load a filter.
const FILTER_MODE: u64 = libc::SECCOMP_MODE_FILTER as u64;
const FILTER_OPERATION: u64 = libc::SECCOMP_SET_MODE_FILTER as u64;

/// Families of sockets: those that end at the sandbox's own network namespace. Others, such as that
/// of virtual machines, do not.
const SOCKET_FAMILIES: [i32; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Protocols of families that have several: that for addresses and routes, and those that every kernel
/// has. Others load modules.
const PROTOCOLS: [(i32, &[i32]); 3] = [
    (libc::AF_NETLINK, &[libc::NETLINK_ROUTE]),
    (
        libc::AF_INET,
        &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP],
    ),
    (
        libc::AF_INET6,
        &[
            0,
            libc::IPPROTO_TCP,
            libc::IPPROTO_UDP,
            libc::IPPROTO_ICMPV6,
        ],
    ),
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters, in the order in which they are to be loaded, each as the bytes of its `sock_filter`s.
/// A program that `is_pinned` cannot change which processors it runs on.
///
/// All of them are asked at each call. Where several refuse it, the one that was loaded last counts: no
/// call is refused by two of them, but those that every program may make with another result.
///
/// # Panics
/// Never, as the tests show: nothing in here comes from outside.
pub(super) fn programs(is_pinned: bool) -> Vec<Vec<u8>> {
    let fails = |errno: i32| SeccompAction::Errno(errno as u32);
    let denied = |rules, errno| program(rules, fails(errno));
    let all = |names: &str, inside, outside| {
        let foreign = SeccompAction::KillProcess;
        let [inside, outside, foreign] = [inside, outside, foreign].map(u32::from);
        bytes(&call_set::program(
            &numbers(names),
            inside,
            outside,
            foreign,
        ))
    };
    vec![
        all(PRETENDED, fails(0), SeccompAction::Allow),
        all(ALLOWED, SeccompAction::Allow, fails(libc::ENOSYS)),
        all(REFUSED, fails(libc::EPERM), SeccompAction::Allow),
        denied(refused(is_pinned), libc::EPERM),
        denied(other_requests(), libc::ENOTTY),
        denied(other_families(), libc::EAFNOSUPPORT),
        denied(other_protocols(), libc::EPROTONOSUPPORT),
        denied(other_commands(), libc::EINVAL),
        denied(allocations(), libc::EOPNOTSUPP),
        denied(huge_pages(), libc::ENOMEM),
        // The last one: after it no filter can be loaded.
        denied(filters(), libc::EINVAL),
    ]
}

fn program(rules: Rules, action: SeccompAction) -> Vec<u8> {
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, ARCHITECTURE);
    let program = filter.and_then(BpfProgram::try_from);
    bytes(&program.expect("the rules are well-formed and fit into a program"))
}

fn bytes(program: &[sock_filter]) -> Vec<u8> {
    let bytes = program.iter().flat_map(|instruction| {
        let [code_0, code_1] = instruction.code.to_ne_bytes();
        let [k_0, k_1, k_2, k_3] = instruction.k.to_ne_bytes();
        let (jt, jf) = (instruction.jt, instruction.jf);
        [code_0, code_1, jt, jf, k_0, k_1, k_2, k_3]
    });
    bytes.collect()
}

/// What is refused with some arguments. `clone3`, whose arguments no filter can see, is unknown to programs.
fn refused(is_pinned: bool) -> Rules {
    let mut rules = Rules::new();
    if is_pinned {
        rules.insert(number(Sysno::sched_setaffinity), Vec::new());
    }
    let bits = |flags: u64| {
        (0..u32::BITS)
            .map(|bit| 1 << bit)
            .filter(move |bit| flags & bit != 0)
    };
    let makes_one = |bit| rule([condition(0, Compare::MaskedEq(bit), bit)]);
    let clone = bits(NAMESPACES).map(makes_one).collect();
    rules.insert(number(Sysno::clone), clone);
    let unshare = bits(NAMESPACES | TIME_NAMESPACE).map(makes_one).collect();
    rules.insert(number(Sysno::unshare), unshare);
    let change = rule([condition(0, Compare::Ne, PERSONALITY_QUERY)]);
    rules.insert(number(Sysno::personality), vec![change]);
    let pushes = PUSHES_INPUT.map(|request| rule([condition(1, Compare::Eq, request)]));
    rules.insert(number(Sysno::ioctl), pushes.into());
    let seizes = [PTRACE_ATTACH, PTRACE_SEIZE].map(|way| rule([condition(0, Compare::Eq, way)]));
    rules.insert(number(Sysno::ptrace), seizes.into());
    rules
}

fn other_requests() -> Rules {
    let known = REQUESTS.iter().chain(&PUSHES_INPUT).copied();
    Rules::from([(number(Sysno::ioctl), vec![none_of(1, known)])])
}

fn other_families() -> Rules {
    let other = || none_of(0, SOCKET_FAMILIES.into_iter().map(|family| family as u64));
    let calls = [Sysno::socket, Sysno::socketpair];
    calls.map(|call| (number(call), vec![other()])).into()
}

fn other_protocols() -> Rules {
    let other = |(family, protocols): (i32, &[i32])| {
        let is_family = condition(0, Compare::Eq, family as u64);
        let others = protocols
            .iter()
            .map(|protocol| condition(2, Compare::Ne, *protocol as u64));
        let conditions = [is_family].into_iter().chain(others).collect();
        SeccompRule::new(conditions).expect("there is a condition")
    };
    let calls = [Sysno::socket, Sysno::socketpair];
    calls
        .map(|call| (number(call), PROTOCOLS.map(other).into()))
        .into()
}

fn other_commands() -> Rules {
    Rules::from([(number(Sysno::fcntl), vec![none_of(1, COMMANDS.into_iter())])])
}

fn allocations() -> Rules {
    let takes = rule([condition(1, Compare::Ne, MAKES_HOLES)]);
    Rules::from([(number(Sysno::fallocate), vec![takes])])
}

fn huge_pages() -> Rules {
    let asks = |(call, argument, flag)| {
        let has_flag = condition(argument, Compare::MaskedEq(flag), flag);
        (number(call), vec![rule([has_flag])])
    };
    HUGE_PAGES.map(asks).into()
}

/// Programs find neither filters of sockets nor filters of system calls, as in a kernel without them.
fn filters() -> Rules {
    let level = condition(1, Compare::Eq, libc::SOL_SOCKET as u64);
    let options =
        FILTER_OPTIONS.map(|option| rule([level.clone(), condition(2, Compare::Eq, option)]));
    let set = condition(0, Compare::Eq, libc::PR_SET_SECCOMP as u64);
    let mode = rule([set, condition(1, Compare::Eq, FILTER_MODE)]);
    let operation = rule([condition(0, Compare::Eq, FILTER_OPERATION)]);
    Rules::from([
        (number(Sysno::setsockopt), options.into()),
        (number(Sysno::prctl), vec![mode]),
        (number(Sysno::seccomp), vec![operation]),
    ])
}

/// That an argument is none of these.
fn none_of(argument: u8, values: impl Iterator<Item = u64>) -> SeccompRule {
    let conditions = values
        .map(|value| condition(argument, Compare::Ne, value))
        .collect();
    SeccompRule::new(conditions).expect("there is a condition")
}

/// The calls of a list that this architecture has.
fn numbers(names: &str) -> BTreeSet<u32> {
    let known = names.split_whitespace().map(str::parse::<Sysno>);
    known.flatten().map(|call| call.id() as u32).collect()
}

fn number(call: Sysno) -> i64 {
    call.id().into()
}

/// Of the lower half of an argument: the kernel looks at no more of those that are compared here.
fn condition(argument: u8, compare: Compare, value: u64) -> SeccompCondition {
    let condition = SeccompCondition::new(argument, Length::Dword, compare, value);
    condition.expect("the argument is one of six")
}

/// That all conditions hold.
fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> SeccompRule {
    SeccompRule::new(conditions.into()).expect("there is a condition")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unknown on purpose: the arguments of the first cannot be seen; the second tells what others have read;
    /// the third takes memory that belongs to no process; the rest takes a pool of the whole system.
    const SPECIAL: &str = "
        clone3 cachestat vmsplice io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
    ";

    /// Of kernels that are long gone, of other systems, of no use but to attackers; and the message
    /// queues of POSIX, which are in a file system that Landlock takes for one that was not allowed.
    const LEFT_OUT: &str = "
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
        afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms get_thread_area getpmsg
        modify_ldt putpmsg query_module rt_tgsigqueueinfo_time64 security set_thread_area tuxcall
        uretprobe uprobe vserver file_getattr file_setattr
    ";

    fn names(lists: &[&str]) -> BTreeSet<String> {
        let words = lists.iter().flat_map(|list| list.split_whitespace());
        words.map(ToOwned::to_owned).collect()
    }

    #[test]
    fn every_call_is_on_one_list() {
        let lists = [ALLOWED, REFUSED, SPECIAL, LEFT_OUT];
        let all = names(&lists);
        let count: usize = lists
            .iter()
            .map(|list| list.split_whitespace().count())
            .sum();
        assert_eq!(all.len(), count, "a call is listed twice");
        let left: Vec<_> = Sysno::iter()
            .filter(|call| !all.contains(call.name()))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn the_lists_name_calls() {
        // One that a single architecture has is no error, one that none has is.
        let known = |name: &str| {
            name.parse::<Sysno>().is_ok() || name.parse::<syscalls::x86_64::Sysno>().is_ok()
        };
        let unknown: Vec<_> = names(&[ALLOWED, REFUSED])
            .into_iter()
            .filter(|name| !known(name))
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn the_programs_are_whole() {
        for program in programs(true) {
            assert_eq!(program.len() % 8, 0);
            // The kernel compiles them at each start.
            assert!(program.len() / 8 <= 300, "{}", program.len() / 8);
        }
    }
}
