//! The limit on memory, held without a control group or by one.

use ipfs_exec_tests::Archive;

use crate::limits::{alone, assert_ends};
use crate::machine::{EMPTY, Machine, compile};

/// Takes memory without end in the way that its argument names.
pub(crate) const HOG: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <unistd.h>
static char bytes[1 << 20];
static void go_on_as_a_child(void) {
    if (fork() == 0) return;
    for (;;) pause();
}
static void *hog(void *unused) {
    for (;;) memset(mmap(0, 1 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, 1 << 20);
}
int main(int count, char **names) {
    if (!strcmp(names[1], "shared"))
        for (;;) memset(mmap(0, 1 << 20, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 1, 1 << 20);
    if (!strcmp(names[1], "memfd")) {
        int file = memfd_create("x", 0);
        for (;;) write(file, bytes, sizeof bytes);
    }
    if (!strcmp(names[1], "few")) {
        memset(mmap(0, 1 << 20, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 1, 1 << 20);
        return sleep(1);
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int ends[2], size = 4 << 20;
    if (!strcmp(names[1], "pipes")) for (;;) {
        if (pipe2(ends, O_NONBLOCK)) { go_on_as_a_child(); continue; }
        fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
        while (write(ends[1], bytes, 4096) > 0) {}
    }
    if (!strcmp(names[1], "sockets")) for (;;) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends)) { go_on_as_a_child(); continue; }
        setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        while (write(ends[0], bytes, 65536) > 0) {}
    }
    if (!strcmp(names[1], "tables")) for (;;) {
        // Each read of the page of zeros takes another table.
        char *space = mmap(0, 1L << 40, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (space == MAP_FAILED) { go_on_as_a_child(); continue; }
        madvise(space, 1L << 40, MADV_NOHUGEPAGE);
        for (long at = 0; at < 1L << 40; at += 2 << 20) (void)*(volatile char *)(space + at);
    }
    if (!strcmp(names[1], "detached")) for (;;) {
        int segment = shmget(IPC_PRIVATE, 4 << 20, IPC_CREAT | 0600);
        if (segment < 0) { pause(); continue; }
        char *bytes = shmat(segment, 0, 0);
        memset(bytes, 1, 4 << 20);
        shmdt(bytes);
    }
    pthread_t thread;
    pthread_create(&thread, 0, hog, 0);
    pthread_exit(0);
}
"#;

/// Memory that has no name and is in no process' own part, and that of a process whose first thread has
/// ended.
#[test]
fn memory_cannot_be_hidden() {
    let _alone = alone();
    let image = Archive::busybox().file("bin/hog", 0o755, compile(HOG));
    let machine = Machine::with(&image);
    let options = ["--memory", "100MiB", "--timeout", "60s"];
    // What a process has that executed a file which it may not read cannot be seen by users.
    let unreadable = "cp /bin/hog /tmp; chmod 111 /tmp/hog; /tmp/hog";
    for way in [
        "shared", "memfd", "thread", "pipes", "sockets", "tables", "detached",
    ] {
        for hog in ["hog", unreadable] {
            let script = format!("{hog} {way} & wait; sleep 60");
            // Some open tens of thousands of pipes, and each of them is counted: seconds on a free machine.
            assert_ends(&machine, &options, &script, "memory", 45.0);
        }
    }
    let script = format!("{unreadable} few");
    let harmless = machine.environment.ipfs_exec(["run"]).arguments(options);
    harmless
        .arguments([&machine.rootfs, EMPTY, "sh", "-c", &script])
        .succeeds();
}
