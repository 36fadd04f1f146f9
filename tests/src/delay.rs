//! A slow line: a relay of TCP connections on loopback that holds everything back for a while, as
//! `tc netem` does where the kernel has it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one read.
const PIECE: usize = 64 * 1024;

/// Pieces that may be on the line, in one direction: more than any window.
const PIECES: usize = 4096;

/// Starts a line to `target` on which everything takes `delay`, each way. It lasts as long as the
/// process.
///
/// # Panics
/// If it cannot be started.
pub fn line(target: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("cannot listen on loopback");
    let address = listener.local_addr().expect("a listener has an address");
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let far = TcpStream::connect(target).expect("the target listens");
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to) = (clone(from), clone(to));
                let (sender, receiver) = sync_channel(PIECES);
                thread::spawn(move || take(from, &sender));
                thread::spawn(move || give(to, &receiver, delay));
            }
        }
    });
    address
}

type Piece = (Instant, Vec<u8>);

fn clone(stream: &TcpStream) -> TcpStream {
    stream.set_nodelay(true).expect("a socket takes options");
    stream.try_clone().expect("there are enough descriptors")
}

fn take(mut from: TcpStream, sender: &SyncSender<Piece>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let piece = (Instant::now(), buffer[..count].to_vec());
        if sender.send(piece).is_err() {
            return;
        }
    }
}

fn give(mut to: TcpStream, receiver: &Receiver<Piece>, delay: Duration) {
    for (came, bytes) in receiver {
        // The length of the line is what is made here.
        thread::sleep((came + delay).saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    // The other end may have closed it already.
    let _ = to.shutdown(Shutdown::Write);
}
