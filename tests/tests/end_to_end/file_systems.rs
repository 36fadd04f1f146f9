//! The same jobs with repositories on different file systems give the same outputs. The test needs root,
//! because only root may mount disks.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use ipfs_exec_tests::environment::binary;
use ipfs_exec_tests::{Archive, requirement};

use crate::machine::{Machine, compile};

/// Prints all that the kernel says of the paths below its argument: in the order of the directory, as the
/// calls return it. The device number is left out: the kernel counts mounts in it.
const LOOK: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static int is(const char *what, const char *wanted) {
    return !strcmp(what, wanted) || !strcmp(what, "all");
}
static void look(const char *what, const char *path) {
    struct stat s;
    struct statx x;
    struct statfs f;
    char text[4096];
    if (lstat(path, &s)) { perror(path); return; }
    printf("%s", path);
    if (is(what, "stat"))
        printf(" %lu %lu %o %u %u %ld %ld %ld", s.st_ino, s.st_nlink, s.st_mode, s.st_uid, s.st_gid, s.st_size,
               s.st_blocks, s.st_blksize);
    if (is(what, "times"))
        printf(" %ld.%ld %ld.%ld %ld.%ld", s.st_atim.tv_sec, s.st_atim.tv_nsec, s.st_mtim.tv_sec,
               s.st_mtim.tv_nsec, s.st_ctim.tv_sec, s.st_ctim.tv_nsec);
    if (is(what, "statx") && !statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0x7fff, &x))
        printf(" %x %llx %llx %lld %x", x.stx_mask & 0xfff, x.stx_attributes,
               x.stx_attributes_mask, x.stx_btime.tv_sec, x.stx_blksize);
    if (is(what, "statfs") && !statfs(path, &f))
        printf(" %lx %ld %lu %lu %lu %lu %lu %ld", f.f_type, f.f_bsize, f.f_blocks, f.f_bfree, f.f_bavail,
               f.f_files, f.f_ffree, f.f_namelen);
    if (is(what, "xattr"))
        printf(" %zd %zd", llistxattr(path, text, sizeof text), lgetxattr(path, "user.x", text, sizeof text));
    if (is(what, "access"))
        printf(" %d%d%d", access(path, R_OK), access(path, W_OK), access(path, X_OK));
    if (is(what, "link") && S_ISLNK(s.st_mode)) {
        ssize_t length = readlink(path, text, sizeof text - 1);
        text[length < 0 ? 0 : length] = 0;
        printf(" %s", text);
    }
    if (is(what, "map") && S_ISREG(s.st_mode) && s.st_size) {
        unsigned char *bytes = mmap(0, s.st_size, PROT_READ, MAP_PRIVATE, open(path, O_RDONLY), 0);
        unsigned long sum = 0;
        for (long at = 0; bytes != MAP_FAILED && at < s.st_size; at++) sum = sum * 31 + bytes[at];
        printf(" %lx", sum);
    }
    puts("");
    if (!S_ISDIR(s.st_mode)) return;
    int directory = open(path, O_RDONLY | O_DIRECTORY);
    char entries[1 << 16];
    long count;
    while ((count = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0)
        for (long at = 0; at < count;) {
            struct dirent64 *entry = (void *)(entries + at);
            at += entry->d_reclen;
            if (is(what, "entries"))
                printf("%s: %s %lu %ld %d\n", path, entry->d_name, entry->d_ino, entry->d_off, entry->d_type);
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
            snprintf(text, sizeof text, "%s/%s", path, entry->d_name);
            look(what, text);
        }
    close(directory);
}
int main(int count, char **arguments) {
    look(arguments[1], arguments[2]);
    return 0;
}
"#;

/// What each job writes to `/output/said`.
const JOBS: [&str; 20] = [
    "look all /input",
    "look stat /input",
    "look times /input",
    "look statx /input",
    "look statfs /input",
    "look xattr /input",
    "look access /input",
    "look link /input",
    "look map /input",
    "look entries /input",
    "ls -laiRU /input",
    "find /input -ls",
    "du -a /input; df -k /input",
    "tar -cf - -C /input . | tee /output/tree.tar | sha256sum",
    "find /input -type f -exec sha256sum {} +",
    "for each in /input/many/*; do echo $each; cat $each; done",
    "/input/script; cp /input/script /output/script; ls -la /output/script | cut -c 1-40",
    "touch /input/new; echo x >> /input/large; rm /input/script; mkdir /input/d; chmod 0 /input/script; \
     ln /input/script /input/hard; mv /input/large /input/small",
    "cp -a /input/many /output/many; ls -l /output/many | sed 1d | cut -c 1-10",
    "dd if=/input/large bs=1000 skip=300 count=7 2> /dev/null | md5sum; tail -c 10 /input/large | od -c",
];

/// Runs each job in each mode on each file system. Says which output it gave.
const SCRIPT: &str = r#"
set -e
number=0
for kind in 'tmpfs' 'ext4 -q' 'ext4 -q -O ^dir_index' 'xfs -q' 'btrfs -q'; do
    number=$((number + 1))
    disk=$DISK/$number
    mkdir "$disk"
    case $kind in
        tmpfs) mount -t tmpfs none "$disk" ;;
        *)
            # 512 MiB are the least that all of them take.
            truncate -s 512M "$disk.image"
            mkfs.$kind "$disk.image" > mkfs.log 2>&1 || { cat mkfs.log >&2; exit 1; }
            mount -o loop "$disk.image" "$disk"
            ;;
    esac
    export IPFS_EXEC_PATH="$disk/repository"
    "$IPFS_EXEC" import rootfs.car > imported
    "$IPFS_EXEC" import input.car > imported
    for mode in mount copy; do
        while IFS= read -r job; do
            echo "$number $mode $("$IPFS_EXEC" run --input-mode $mode "$1" "$2" \
                sh -c "{ $job; } > /output/said 2>&1 || :") $job"
        done < jobs
    done
    umount "$disk"
    rm -f "$disk.image"
done
"#;

#[test]
fn twenty_jobs_on_five_disks_in_two_modes() {
    for (tool, package) in [
        ("mkfs.ext4", "e2fsprogs"),
        ("mkfs.xfs", "xfsprogs"),
        ("mkfs.btrfs", "btrfs-progs"),
    ] {
        requirement::tool(tool, package);
    }
    let image = Archive::busybox().file("bin/look", 0o755, compile(LOOK));
    let machine = Machine::with(&image);
    let environment = &machine.environment;
    environment.write("input/script", "#!/bin/sh\necho script\n");
    environment.write("input/large", vec![b'x'; 600_000]);
    environment.write("input/small", "small");
    environment.write("input/empty", "");
    environment.write("input/deep/er/file", "deep");
    for (target, name) in [("deep/er/file", "link"), ("/nowhere", "dangling")] {
        symlink(target, environment.file("input").join(name)).unwrap();
    }
    for number in 0..300 {
        environment.write(format!("input/many/{}", number * 7919 % 300), "content");
    }
    let input = environment.add("input");
    for (name, cid) in [("rootfs.car", &machine.rootfs), ("input.car", &input)] {
        environment
            .ipfs_exec(["export", cid, "-o", name])
            .succeeds();
    }
    environment.write("jobs", JOBS.map(|job| format!("{job}\n")).concat());
    let disk = environment.directory("disk");
    let outcome = environment
        .program("unshare")
        .arguments(["--mount", "sh", "-c", SCRIPT, "sh", &machine.rootfs, &input])
        .variable("IPFS_EXEC", binary())
        .variable("DISK", &disk)
        .succeeds();
    let mut outputs: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    let said = outcome.text();
    for line in said.lines() {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().unwrap();
        let (_disk, _mode, cid, job) = (word(), word(), word(), word());
        assert!(cid.starts_with("Qm"), "{line}");
        outputs.entry(job).or_default().push((cid, line));
    }
    assert_eq!(outputs.len(), JOBS.len());
    for (job, given) in outputs {
        assert_eq!(given.len(), 10, "{job}");
        for (cid, line) in &given {
            assert_eq!(*cid, given[0].0, "{line}\nand\n{}", given[0].1);
        }
    }
}
