//! Descriptors and short notes on their way from the child to us.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Bytes of a note: what it is, and two numbers.
const NOTE_BYTES: usize = 24;

/// What the child says of itself before it executes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Comes with a descriptor that was asked for.
    Descriptor,
    /// The stage is made.
    Staged([u64; 2]),
    /// The stage could not be made, there.
    Failed(u32),
}

impl Note {
    fn bytes(self) -> [u8; NOTE_BYTES] {
        let (kind, [first, second]) = match self {
            Note::Descriptor => (0, [0; 2]),
            Note::Staged(numbers) => (1, numbers),
            Note::Failed(place) => (2, [place.into(), 0]),
        };
        let mut bytes = [0; NOTE_BYTES];
        for (place, number) in bytes.chunks_exact_mut(8).zip([kind, first, second]) {
            place.copy_from_slice(&u64::to_ne_bytes(number));
        }
        bytes
    }

    fn of(bytes: [u8; NOTE_BYTES]) -> Option<Note> {
        let mut numbers = bytes.chunks_exact(8).map(|number| {
            let number = number.try_into().unwrap_or_default();
            u64::from_ne_bytes(number)
        });
        let mut next = || numbers.next().unwrap_or_default();
        let (kind, numbers) = (next(), [next(), next()]);
        match kind {
            0 => Some(Note::Descriptor),
            1 => Some(Note::Staged(numbers)),
            2 => Some(Note::Failed(numbers[0] as u32)),
            _ => None,
        }
    }
}

/// The end that sends, and the one that receives.
pub(crate) fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// Sends a note, with one descriptor if there is one. Takes no memory: it runs between `fork` and `exec`.
pub(super) fn send(to: &OwnedFd, note: Note, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors
        && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = note.bytes();
    sendmsg(
        to,
        &[IoSlice::new(&bytes)],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// Receives a note, with its descriptor.
pub(super) fn receive(from: &OwnedFd) -> io::Result<(Note, Option<OwnedFd>)> {
    let mut bytes = [0; NOTE_BYTES];
    match receive_bytes(from, &mut bytes)? {
        (NOTE_BYTES, descriptor) => match Note::of(bytes) {
            Some(note) => Ok((note, descriptor)),
            None => Err(io::ErrorKind::InvalidData.into()),
        },
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Receives a message into `bytes`: its length, and a descriptor that came with it.
pub(crate) fn receive_bytes(
    from: &OwnedFd,
    bytes: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(from, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptors.next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn notes_arrive() {
        let (sender, receiver) = open().unwrap();
        for note in [
            Note::Descriptor,
            Note::Staged([1, u64::MAX]),
            Note::Failed(7),
        ] {
            for descriptor in [None, Some(sender.as_fd())] {
                send(&sender, note, descriptor).unwrap();
                let (received, with) = receive(&receiver).unwrap();
                assert_eq!((received, with.is_some()), (note, descriptor.is_some()));
            }
        }
        drop(sender);
        let error = receive(&receiver).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
