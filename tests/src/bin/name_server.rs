//! A DNS server that knows a few names, until it is ended.
//!
//! `name_server ADDRESS (NAME A ADDRESS | NAME TXT TEXT)...`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of tests"
)]

use std::net::{Ipv4Addr, UdpSocket};

const HEADER_BYTES: usize = 12;
/// Response, authoritative.
const FLAGS: u16 = 0x8400;
/// With it: there is no such name.
const NAME_ERROR: u16 = 3;

struct Record {
    name: String,
    kind: u16,
    data: Vec<u8>,
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (address, records) = arguments.split_first().unwrap();
    let records: Vec<_> = records.chunks(3).map(record).collect();
    let socket = UdpSocket::bind((address.as_str(), 53)).unwrap();
    println!("ready");
    let mut packet = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut packet).unwrap();
        socket
            .send_to(&answer(&packet[..length], &records), client)
            .unwrap();
    }
}

fn record(argument: &[String]) -> Record {
    let [name, kind, value] = argument else {
        panic!("records have three parts: {argument:?}");
    };
    let (kind, data) = match kind.as_str() {
        "A" => (1, value.parse::<Ipv4Addr>().unwrap().octets().to_vec()),
        "TXT" => (16, strings(value)),
        kind => panic!("unknown type {kind}"),
    };
    Record {
        name: name.clone(),
        kind,
        data,
    }
}

/// A text in strings of at most 255 bytes.
fn strings(text: &str) -> Vec<u8> {
    let chunks = text.as_bytes().chunks(255);
    chunks
        .flat_map(|chunk| [&[chunk.len() as u8], chunk].concat())
        .collect()
}

/// Answers the one question of `query`.
fn answer(query: &[u8], records: &[Record]) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut end = HEADER_BYTES;
    while query[end] != 0 {
        let start = end + 1;
        end = start + query[end] as usize;
        labels.push(std::str::from_utf8(&query[start..end]).unwrap());
    }
    let name = labels.join(".").to_ascii_lowercase();
    // The end of the name, type and class.
    let question = &query[HEADER_BYTES..end + 5];
    let kind = u16::from_be_bytes([query[end + 1], query[end + 2]]);
    let known = records.iter().filter(|record| record.name == name);
    let found: Vec<_> = known.clone().filter(|record| record.kind == kind).collect();
    let flags = match known.count() {
        0 => FLAGS | NAME_ERROR,
        _ => FLAGS,
    };
    let mut packet = query[..2].to_vec();
    for number in [flags, 1, found.len() as u16, 0, 0] {
        packet.extend(number.to_be_bytes());
    }
    packet.extend(question);
    for record in found {
        // The name of the question; of the internet, for a minute.
        packet.extend([0xc0, HEADER_BYTES as u8]);
        packet.extend(record.kind.to_be_bytes());
        packet.extend([0, 1, 0, 0, 0, 60]);
        packet.extend((record.data.len() as u16).to_be_bytes());
        packet.extend(&record.data);
    }
    packet
}
