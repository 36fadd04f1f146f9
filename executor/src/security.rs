//! The threat model: what a sandbox promises, to whom, by what means.
//!
//! # Assets
//! - The host's files, processes, kernel, network, terminal and secrets: a program gets nothing of
//!   them, and changes nothing.
//! - The repository: a program cannot change a block, a pin or a cached root file system. Blocks are
//!   verified whenever they are read.
//! - The result: the same job gives the same output, whoever runs it, and no other job can change it.
//!
//! # Who is trusted, and who is hostile
//! Trusted are the user's own account and whoever else may write its files, the kernel, bubblewrap,
//! and the repository directory. Hostile is everything that has a CID: the archive or directory that
//! becomes the root file system, the input, the program that is in the former, whatever it starts, and
//! what it leaves in `/output`. Hostile, too, are peers, gateways and names.
//!
//! # The operations, in order
//! 1. The archive is unpacked through descriptors, beneath a directory of the repository
//!    ([`archive`](crate::archive)). A symbolic link of the archive on the way to an entry is resolved
//!    inside the tree, to a path without links; the kernel then opens that path without following a link.
//!    What stands at the path of an entry is removed before the entry is made, so that nothing is written
//!    through a hard link. Devices and set-id bits are left out. The mount
//!    points that the sandbox needs are made as real directories; a link where one belongs is an error
//!    ([`rootfs`](crate::rootfs)). A directory as root file system is mounted, and its mount points are
//!    shown in addition to what is in the DAG, without set-id bits. A tree may have more names than any
//!    memory: the kernel is asked to drop nodes above 40,960.
//! 2. `/output` and `/tmp` are made empty in a scratch directory of the run
//!    ([`output`](crate::output)). The input is mounted by FUSE, or written below the same directory.
//! 3. The process splits. A supervisor, which holds one end of a pipe and nothing else of ours, kills all
//!    that follows when we die, at whatever moment. The child gets default signal dispositions, umask 022,
//!    the same limits and attributes of processes everywhere, three standard streams and what bubblewrap is told of; all
//!    other descriptors are closed. Each stream is a pipe of ours whose bytes a thread carries, or a
//!    terminal of the sandbox's own ([`sandbox`](crate::sandbox)): no open file description of the caller
//!    comes inside.
//! 4. The supervisor makes a user and a mount namespace, and in it a [stage](crate::sandbox::stage): a
//!    `tmpfs` with device nodes, and empty files and directories for covering. The root file system,
//!    `/output` and `/tmp` are overlays there, so that a run has inodes of its own, and runs that share a
//!    tree share no locks, leases, watches or hints. If the kernel cannot mount the overlay of the root
//!    file system, FUSE shows the unpacked tree. Its server opens files by descriptor, only below the tree,
//!    and follows no link. It bounds the memory of listings and the number of open files. If FUSE does not
//!    work either, a bind mount shows the tree. FUSE file systems are mounted in the same namespace,
//!    and are nowhere on the host. Limits of that user namespace bound instances and watches of inotify.
//! 5. The child switches off the randomisation of addresses, and offers itself to the kernel as the first
//!    to be killed where memory runs out.
//! 6. Bubblewrap makes the namespaces and mounts of the [plan](crate::sandbox::plan), drops all
//!    capabilities, sets `no_new_privs`, and executes the stub: a static program of 4 KiB that is in no
//!    file system, and that carries arguments, environment and filters with it.
//! 7. The supervisor enters the mount namespace of the sandbox and covers what of `/proc` tells of the host.
//! 8. The stub confines itself by Landlock: beside what mounts are read-only, nothing can be written to but
//!    `/output`, `/tmp` and `/dev` (Linux 5.19), and no process or abstract socket outside can be reached
//!    (Linux 6.12). It takes the right to execute its own file away, and loads the filters of system calls.
//!    Where the job names an entrypoint, the stub stays as process 1, without a descriptor: it hands signals
//!    on, and goes on in a child. It opens the terminal, if the program has one, in the sandbox's own
//!    `devpts`, which has at most 64, has every descriptor but three closed, and executes the program.
//! 9. Signals of the caller reach the program first. A program that handles one of those that end a process
//!    gets some seconds; then everything is killed.
//! 10. When process 1 has ended, the kernel has killed all others of its namespace, and the supervisor
//!     what was left of bubblewrap. Only then is `/output` imported, by descriptor and without following
//!     a link. Sockets and pipes in it are errors of the program.
//!
//! # What bubblewrap is told
//! | argument | without it |
//! | --- | --- |
//! | `--unshare-user`, `--uid 0`, `--gid 0` | the program would have the user's identity, and see it |
//! | `--unshare-pid`, `--as-pid-1` | it could signal and trace the user's processes, and outlive the run |
//! | `--unshare-net` | it would have a network; abstract sockets of the host belong to that, too |
//! | `--unshare-ipc` | System V shared memory, semaphores and POSIX queues of the host |
//! | `--unshare-uts`, `--hostname sandbox` | results would depend on the machine's name |
//! | `--unshare-cgroup` | the host's control groups would be visible |
//! | `--disable-userns` (bubblewrap 0.8) | nested user namespaces, and with their capabilities the parts of the kernel in which most holes are found; the filter refuses them as well |
//! | `--cap-drop ALL` | root inside would be root of its namespace |
//! | `--die-with-parent` | the sandbox would live on when bubblewrap is killed |
//! | `--new-session` | the program could push input into the caller's terminal (CVE-2017-5226); the filter refuses that as well |
//! | `--clearenv` | the stub would start with the caller's environment |
//! | `--ro-bind ROOT /` | the program could change its root file system; the overlay is read-only, too |
//! | `--proc /proc`, `--remount-ro /proc` | below |
//! | `--dev-bind DEV /dev` | below |
//! | `--ro-bind /input`, `--bind /output`, `--bind /tmp` | the three places of the contract |
//! | `--chdir /` | the caller's directory would be the program's |
//! | `--json-status-fd` | a failure of bubblewrap could be taken for one of the program |
//!
//! # `/dev`
//! Lists [`VISIBLE_DEVICES`] and nothing else; the directory is read-only. All that the six devices do is
//! give or take bytes. Where root runs the sandbox they are made for the run; no other user may make
//! devices, and the host's are shown read-only, so that their modes stay. No device of a disk, of memory or
//! of a console can be opened or made: `mknod` needs a capability of the host.
//!
//! # `/proc`
//! Mounted anew for the sandbox's process namespace: it shows its processes alone. What it holds beside
//! processes belongs to the host, so it is read-only as a whole: where the user is root on the host, the
//! kernel takes root of the sandbox for the owner of `/proc/sys` and of `sysrq-trigger`, and a
//! `core_pattern` would run programs outside. [`VISIBLE_PROC`] stays visible. Every other entry is covered
//! by an empty file or directory of the stage, also one that a newer kernel brings: `kcore`, `keys`,
//! `kallsyms`, `cmdline`, `config.gz`, `interrupts`, `modules`, `pressure`, `vmstat` and so on. In
//! `/proc/sys` each file is covered that others than root may not read, each counter of the host
//! (`fs/file-nr`, `fs/inode-nr`, `kernel/tainted` and others), and each directory but `fs`, `kernel`, `net`,
//! `user` and `vm`. `boot_id` is
//! a constant ([`BOOT_IDENTITY`](crate::sandbox::stage::BOOT_IDENTITY)).
//!
//! # What remains visible of the machine
//! A program whose output depends on one of these properties is not pure. The README has the same table, and
//! a test compares them.
//!
//! | property | a program sees it in | remedy |
//! | --- | --- | --- |
//! | processors, their flags and speed; `--cpus` bounds their number | `/proc/cpuinfo`, `/proc/stat`, `sched_getaffinity`, `cpuid` | do not write the number of threads into results; build for a named processor, not for `native` |
//! | memory of the machine, load, uptime, time of the last boot | `/proc/meminfo`, `/proc/loadavg`, `/proc/stat`, `/proc/uptime`, `sysinfo` | do not write them into results |
//! | release and settings of the kernel | `uname`, `/proc/version`, `/proc/filesystems`, `/proc/sys` | do not write them into results |
//! | clock, duration of operations, and scheduling of threads | `clock_gettime`, times of new files, order of concurrent writes | use `SOURCE_DATE_EPOCH`; write results from one thread, or sort them |
//! | size and free space of the disk | `statfs` of `/output` and `/tmp` | do not write them into results |
//! | order of entries of an unpacked archive, such as those of `/bin` | `readdir` | `image unpack` gives a root file system that is mounted, and whose entries have a fixed order |
//! | order of entries of `/output` and `/tmp` | `readdir` | sort names before use; shells sort `*`, and `sort` sorts `find` |
//! | inode numbers and disk space of files, of an unpacked archive, of `/output` and of `/tmp` | `stat` | do not write them into results |
//! | numbers of mounts, devices and processes; user ids in the options of a `tmpfs`; devices of the host, if the caller is not root | `/proc/self/mountinfo`, `stat` | do not write them into results |
//! | pages of a shared root file system that are in memory | `mincore`, timing | do not write them into results |
//! | nice value and scheduling class of the caller; its hard limits, if the caller is not root and they are lower | `getpriority`, `sched_getscheduler`, `getrlimit` | call `ipfs-exec` with the same values on every machine |
//! | random numbers | `getrandom`, `/dev/urandom`, `AT_RANDOM` | give the program a fixed seed |
//! | whether an overlay or FUSE shows an unpacked archive | `statfs`, `/proc/self/mountinfo` | do not write it into results; `run --json` shows it in `isolation` |
//! | path of the repository, locks and leases of other runs on the same root file system, only on a machine with neither overlays nor FUSE | `/proc/self/mountinfo`, `fcntl` | load the overlay or the FUSE module of the kernel; `run --json` shows `bind` in `isolation` without them |
//!
//! # What an ordinary user cannot bound
//! The kernel counts these for each user, and nothing below it:
//!
//! | pool | effect of a program that uses all of it |
//! | --- | --- |
//! | pages in pipes | other pipes of the same user get one page each; a program cannot enlarge its pipes |
//! | watches of `epoll` | other processes of the same user get `ENOSPC` from `epoll_ctl` |
//! | descriptors in flight through UNIX sockets | other processes of the same user get `ETOOMANYREFS` |
//!
//! # System calls
//! The lists stand in the source of `sandbox::seccomp`. What is refused, and why:
//!
//! | calls | reason |
//! | --- | --- |
//! | `mount` and all that came after it, `umount2`, `pivot_root`, `chroot` | the view of files is made once, outside |
//! | `unshare`, `clone` with a namespace; `setns`; `clone3`, whose flags no filter can see | capabilities over a part of the kernel |
//! | `mq_open` and the other calls for message queues of POSIX | the kernel keeps them in a file system that no rule of Landlock can name; refused everywhere, so that no result depends on it |
//! | `add_key`, `keyctl`, `request_key` | keyrings know of no container |
//! | `bpf`, `perf_event_open`, `userfaultfd`, `io_uring_*` | large, young, and rich in holes; they also watch other processes or widen races |
//! | `ptrace` to attach or seize, `process_vm_*`, `pidfd_getfd`, `kcmp` | a process may trace what it started, and reach into no other |
//! | `init_module`, `kexec_*`, `reboot`, `swapon`, `acct`, `iopl`, `ioperm`, `quotactl` | for administrators alone |
//! | `clock_settime`, `settimeofday`, `adjtimex`, `sethostname` | the machine belongs to all |
//! | `personality` | would undo that addresses are not random; old personalities weaken the kernel's checks |
//! | `ioctl` with `TIOCSTI` or `TIOCLINUX`, whatever the upper half of the request | push input into a terminal |
//! | other requests of `ioctl` that are not of terminals, descriptors or addresses: `ENOTTY` | ask file systems and devices of the host, load line disciplines |
//! | `socket`, `socketpair` of families other than UNIX, IPv4, IPv6 and netlink: `EAFNOSUPPORT` | `AF_VSOCK` ends at the hypervisor, outside of every network namespace; `AF_ALG` is code of the kernel for everybody |
//! | protocols of netlink other than routes, of internet other than TCP, UDP and ICMP: `EPROTONOSUPPORT` | load modules of the kernel |
//! | `fcntl` with leases, delegations, directory watches, hints and pipe sizes: `EINVAL` | a file has them for all who use it; pages in pipes are a pool of the user |
//! | `fallocate` that takes disk: `EOPNOTSUPP` | takes gigabytes in a millisecond, before anybody can look |
//! | `setsockopt` that attaches a filter to a socket; filters by `seccomp` and `prctl`: `EINVAL` | all compiled filters of the machine share one pool; thousands that are freed at once stop the kernel |
//! | huge pages of `mmap`, `memfd_create`, `shmget`: `ENOMEM` | the host has few, for everybody |
//! | `io_setup` and its family: `ENOSYS` | takes all 65,536 contexts of the system |
//! | `cachestat`: `ENOSYS` | tells what other processes have read |
//! | `vmsplice`: `ENOSYS` | a page that a process gives to a pipe keeps its whole huge page (2 MiB), and belongs to no process |
//! | `sync`, `syncfs`: done, and nothing happens | would write what others have to write |
//! | `open_by_handle_at`, `name_to_handle_at` | open files without a path |
//! | `mbind`, `set_mempolicy`, `move_pages`, `migrate_pages` | say where memory lies on this machine |
//!
//! `getgroups` gives no groups: those of the caller cannot be given up without privileges, and their
//! number would be part of the result. Where nothing else is said a call fails with `EPERM`. What is unknown, also because it is
//! newer than this list, fails with `ENOSYS`: programs then fall back to what they used before it came.
//! Calls of a 32-bit program on a 64-bit machine end it with `SIGSYS`.
//!
//! # Limits
//! [`limits`](crate::limits) holds them by control groups of the kernel where it can. Elsewhere it looks
//! often at all processes, and what one does between two looks, 20 to 400 ms apart, is not seen: memory
//! that is taken and given back within that time is not counted. Time on processors is counted by the
//! kernel there as well, but for processes that executed a file which they may not read, and all where
//! `perf_event_paranoid` is above 2: of those, who lives shorter than that and is waited for by nobody
//! is not seen. `--json` says what held which limit.
//!
//! The watch looks at the disk again before a program can fill the rest of it, at 16 GiB and a million files a
//! second, or at the highest speed that it has seen. Looks are at least 3 ms apart, or 10 ms for the sizes of
//! `/output` and `/tmp`.
//!
//! Without a control group, memory that belongs to no process is bounded by the growth of the machine's counters:
//!
//! | memory | bound without a control group |
//! | --- | --- |
//! | of processes; mapped shared memory; `/dev/shm`; files without a name | the limit |
//! | page tables | the limit |
//! | detached shared memory of System V | the limit and 64 MiB; more if other programs free shared memory meanwhile, and less if others take such memory |
//! | pipes and sockets | the limit and 64 MiB. A program with more than eight of them may be stopped for the growth of others |
//! | semaphores, message queues, file locks, mappings, watches and other objects of the kernel | not the limit. If less than 512 MiB of the machine are available (or a 32nd of it, or a quarter of what was), a program is stopped that holds that much, or most of what was taken, as far as it is seen |
//! | directory entries and inodes in caches | none; the kernel takes them back |
//!
//! # Bubblewrap
//! - Before 0.3.3, and 0.4.0 where it is set-uid root: CVE-2019-12439, CVE-2020-5291. Refused: below 0.6.0.
//! - Before 0.12: follows links of the root file system while it makes mount points in it
//!   (CVE-2026-87766). Harmless here, since it makes none: every mount point exists as a real directory,
//!   and the tree is read-only before the first of them is mounted.
//! - Before 0.8: no `--disable-userns`; the filter of system calls stands in for it. Before 0.7:
//!   `/dev/shm` would be limited by the machine's memory alone; the stage makes it.
//!
//! # Out of scope
//! Holes of the kernel in what is allowed; side channels between processes of a machine, such as timing
//! and caches; another process of the same user, who owns the repository; covert use of time, of
//! `/proc/cpuinfo` or of `/dev/urandom` by a program that does not want to be pure.

/// Entries of `/proc` that stay visible beside those of processes, sorted, and why.
pub const VISIBLE_PROC: [(&str, &str); 13] = [
    ("cpuinfo", "programs choose instructions and threads by it"),
    ("filesystems", "tools look for what can be mounted"),
    ("loadavg", "build tools choose how much they do at a time"),
    ("meminfo", "programs size their memory by it"),
    ("mounts", "a link to what the process itself sees mounted"),
    ("net", "a link to the sandbox's own network"),
    ("self", "a link to the process that asks"),
    ("stat", "C libraries count processors in it"),
    (
        "sys",
        "settings of the kernel; what others than root may not read is covered",
    ),
    (
        "sysvipc",
        "shared memory, semaphores and queues of the sandbox's own",
    ),
    ("thread-self", "a link to the thread that asks"),
    ("uptime", "programs measure time by it"),
    ("version", "the release of the kernel, as `uname` tells it"),
];

/// Entries of `/dev`, sorted, and why.
pub const VISIBLE_DEVICES: [(&str, &str); 13] = [
    ("fd", "a link to the descriptors of the process"),
    ("full", "a device on which no write succeeds"),
    ("null", "the device that takes everything"),
    ("ptmx", "a link by which terminals are opened"),
    ("pts", "terminals of the sandbox's own"),
    ("random", "random numbers"),
    ("shm", "shared memory of POSIX: a `tmpfs` of at most 1 GiB"),
    ("stderr", "a link to descriptor 2"),
    ("stdin", "a link to descriptor 0"),
    ("stdout", "a link to descriptor 1"),
    ("tty", "the terminal of the session: its own, or none"),
    ("urandom", "random numbers"),
    ("zero", "a device that gives zeros"),
];

#[cfg(test)]
mod tests {
    /// The rows of the first table below `heading`, without the marks of a comment.
    fn rows<'t>(text: &'t str, heading: &str) -> Vec<&'t str> {
        text.lines()
            .map(|line| line.strip_prefix("//! ").unwrap_or(line))
            .skip_while(|line| *line != heading)
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .collect()
    }

    /// The README promised less than this module, because each table was changed without the other.
    #[test]
    fn the_readme_has_the_same_tables() {
        let module = include_str!("security.rs");
        let readme = include_str!("../../README.md");
        for (here, there) in [
            (
                "# What remains visible of the machine",
                "## Limits of determinism",
            ),
            ("# What an ordinary user cannot bound", "## Security"),
        ] {
            let expected = rows(module, here);
            assert!(expected.len() > 3, "no table below `{here}`");
            assert_eq!(rows(readme, there), expected, "`{there}` of the README");
        }
    }
}
