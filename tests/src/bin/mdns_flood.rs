//! Floods the local network with answers of multicast DNS: hundreds of libp2p peers that are not
//! there, each with many addresses at this host, until it is ended.
//!
//! `mdns_flood ADDRESS`: the IPv4 address of the interface.

#![expect(clippy::unwrap_used, reason = "a helper of tests")]

use std::net::UdpSocket;
use std::time::Duration;

use cid::multibase::{Base, encode};
use ipfs_exec_tests::random::Random;

const GROUP: &str = "224.0.0.251:5353";
const SERVICE: &str = "_p2p._udp.local";
/// What fits the 4 KiB that libp2p reads.
const ADDRESSES_PER_PEER: u16 = 16;
/// Between packets: faster than any reader, the kernel drops what is too much.
const PAUSE: Duration = Duration::from_millis(2);

const PTR: u16 = 12;
const TXT: u16 = 16;

fn main() {
    let address = std::env::args().nth(1).unwrap();
    let socket = UdpSocket::bind((address.as_str(), 0)).unwrap();
    let mut random = Random::new(5353);
    loop {
        socket
            .send_to(&answer(&mut random, &address), GROUP)
            .unwrap();
        std::thread::sleep(PAUSE);
    }
}

/// What one peer that does not exist says of itself.
fn answer(random: &mut Random, address: &str) -> Vec<u8> {
    let key = random.bytes(32);
    let mut id = vec![0, 36, 8, 1, 18, 32];
    id.extend(&key);
    let id = encode(Base::Base58Btc, id).split_off(1);
    let name = format!("{}.{SERVICE}", &encode(Base::Base32Lower, &key)[..40]);
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0];
    packet.extend(ADDRESSES_PER_PEER.to_be_bytes());
    put_record(&mut packet, SERVICE, PTR, &labels(&name));
    for number in 0..ADDRESSES_PER_PEER {
        let port = 20_000 + number;
        let text = format!("dnsaddr=/ip4/{address}/tcp/{port}/p2p/{id}");
        let mut data = vec![text.len() as u8];
        data.extend(text.bytes());
        put_record(&mut packet, &name, TXT, &data);
    }
    packet
}

fn put_record(packet: &mut Vec<u8>, name: &str, kind: u16, data: &[u8]) {
    packet.extend(labels(name));
    packet.extend(kind.to_be_bytes());
    // Of the internet, for ten minutes.
    packet.extend([0, 1]);
    packet.extend(600u32.to_be_bytes());
    packet.extend((data.len() as u16).to_be_bytes());
    packet.extend(data);
}

fn labels(name: &str) -> Vec<u8> {
    let mut labels = Vec::new();
    for label in name.split('.') {
        labels.push(label.len() as u8);
        labels.extend(label.bytes());
    }
    labels.push(0);
    labels
}
