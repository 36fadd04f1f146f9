//! How the whole program allocates and copies memory: blocks come and go by the hundred kilobytes.

#![expect(
    unsafe_code,
    reason = "the C library's `memcpy` can be replaced in no other way"
)]

/// The system's allocator would return the pages of large blocks and fault them in again each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `memcpy` that never uses `rep movsb`.
///
/// glibc before 2.40 does for more than 2 KiB, and AMD's Zen 3 and 4 are twenty times slower at it
/// where the destination stands up to 63 bytes further in its page than the source does ([BZ 30994]).
/// Here that is the common case: blocks begin at page borders, and are copied behind headers of a few
/// bytes. Serving blocks took half of its time for it.
///
/// [BZ 30994]: https://sourceware.org/bugzilla/show_bug.cgi?id=30994
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod copying {
    use std::ffi::c_void;
    use std::hint::black_box;

    /// Up to this many bytes, in every version and on every processor, glibc copies with vectors.
    const PIECE_BYTES: usize = 2048;

    /// Copies `length` bytes, in pieces.
    ///
    /// # Safety
    /// As the C standard has it: both places hold `length` bytes and do not overlap.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(
        to: *mut c_void,
        from: *const c_void,
        length: usize,
    ) -> *mut c_void {
        // Unseen by the compiler, that would else make one large copy of the small ones.
        let copy_piece = black_box(libc::memmove as unsafe extern "C" fn(_, _, _) -> _);
        let mut done = 0;
        while length - done > PIECE_BYTES {
            // SAFETY: `done + PIECE_BYTES` is less than the `length` bytes that both places hold.
            unsafe { copy_piece(to.byte_add(done), from.byte_add(done), PIECE_BYTES) };
            done += PIECE_BYTES;
        }
        // SAFETY: `done` and the rest are `length` together.
        unsafe { copy_piece(to.byte_add(done), from.byte_add(done), length - done) };
        to
    }
}
