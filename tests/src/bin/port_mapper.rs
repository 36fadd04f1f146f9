//! An internet gateway device, as routers of homes are: it says that it has a public address, and maps
//! each port that it is asked to, or says so. Prints `ready`, and a line for each mapping.
//!
//! `port_mapper ADDRESS`: the IPv4 address of the interface. UPnP Device Architecture 1.0,
//! InternetGatewayDevice 1.

#![expect(clippy::unwrap_used, reason = "a helper of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SEARCH_PORT: u16 = 1900;
const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
/// Neither private nor set aside for documentation: libp2p asks for a mapping only where it is of use.
const PUBLIC_ADDRESS: &str = "1.2.3.4";
const MAPPING_ARGUMENTS: [&str; 8] = [
    "NewRemoteHost",
    "NewExternalPort",
    "NewProtocol",
    "NewInternalPort",
    "NewInternalClient",
    "NewEnabled",
    "NewPortMappingDescription",
    "NewLeaseDuration",
];

fn main() {
    let address: Ipv4Addr = std::env::args().nth(1).unwrap().parse().unwrap();
    let listener = TcpListener::bind((address, 0)).unwrap();
    let location = format!("http://{}/device", listener.local_addr().unwrap());
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SEARCH_PORT)).unwrap();
    socket.join_multicast_v4(&GROUP, &address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // One that asks for nothing is as good as none.
            let _ = answer(stream.unwrap());
        }
    });
    say("ready");
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        if buffer[..length].starts_with(b"M-SEARCH") {
            let found = format!("HTTP/1.1 200 OK\r\nLOCATION: {location}\r\nEXT:\r\n\r\n");
            socket.send_to(found.as_bytes(), from).unwrap();
        }
    }
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").unwrap();
    stdout.flush().unwrap();
}

fn answer(stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|bytes| *bytes > 0)?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let value = |name: &str| {
        let mut fields = head.iter().filter_map(|line| line.split_once(':'));
        let field = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.trim().to_owned())
    };
    let length = value("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    let action = value("soapaction").unwrap_or_default();
    let action = action.trim_matches('"').rsplit('#').next().unwrap_or("");
    let content = match (head.first()?.split(' ').nth(1)?, action) {
        ("/device", _) => description(),
        ("/service", _) => schema(),
        (_, "GetExternalIPAddress") => {
            let address = format!("<NewExternalIPAddress>{PUBLIC_ADDRESS}</NewExternalIPAddress>");
            envelope(action, &address)
        }
        (_, "AddPortMapping") => {
            say(&format!(
                "mapped {} {} to {}:{}",
                element(&body, "NewProtocol"),
                element(&body, "NewExternalPort"),
                element(&body, "NewInternalClient"),
                element(&body, "NewInternalPort"),
            ));
            envelope(action, "")
        }
        _ => envelope(action, ""),
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{content}",
        content.len()
    )
    .ok()
}

fn element<'b>(body: &'b str, name: &str) -> &'b str {
    let after = body
        .split_once(&format!("<{name}>"))
        .map(|(_, after)| after);
    after
        .and_then(|after| after.split('<').next())
        .unwrap_or("")
}

fn description() -> String {
    format!(
        "<root><device><serviceList><service><serviceType>{SERVICE}</serviceType>\
         <controlURL>/control</controlURL><SCPDURL>/service</SCPDURL></service></serviceList></device></root>"
    )
}

fn schema() -> String {
    let argument =
        |name: &&str| format!("<argument><name>{name}</name><direction>in</direction></argument>");
    let action = |name, arguments: &[&str]| {
        let arguments: String = arguments.iter().map(argument).collect();
        format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
    };
    format!(
        "<scpd><actionList>{}{}</actionList></scpd>",
        action("AddPortMapping", &MAPPING_ARGUMENTS),
        action("DeletePortMapping", &MAPPING_ARGUMENTS[..3])
    )
}

fn envelope(action: &str, content: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
         <u:{action}Response xmlns:u=\"{SERVICE}\">{content}</u:{action}Response></s:Body></s:Envelope>"
    )
}
