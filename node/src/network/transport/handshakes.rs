//! Inbound connections whose handshake is not done yet.
//!
//! Such a connection costs the other side only a socket. So it has a place for a short time only, and
//! there are few places. If all places are taken, the new connection competes with the oldest connection
//! of the address that has the most places. The new connection takes its place in two cases:
//!
//! - the address of the old connection has more places than the address of the new connection would
//!   have with it;
//! - the old connection has had its place for [`PATIENCE`] or longer.
//!
//! Otherwise the new connection is closed. So an address that opens idle connections takes places only
//! from itself, and not from other addresses. Of an IPv6 address only the first 64 bits count, since
//! every host has all the addresses behind them.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::TryFuture;
use futures::channel::oneshot;
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;

use crate::limits;

/// How long a handshake keeps its place when all are taken and no address has more than its share.
/// It takes four round trips; across the world one is 300 ms at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections that are closed before other work of the node has its turn.
const CLOSED_AT_ONCE: usize = 64;

/// A transport with few inbound handshakes at a time.
pub(super) struct Handshakes<T> {
    transport: T,
    places: Places,
}

impl<T> Handshakes<T> {
    pub(super) fn new(transport: T) -> Handshakes<T> {
        Handshakes {
            transport,
            places: Places::default(),
        }
    }
}

/// Why a connection cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError<E: Error + 'static> {
    /// Another connection took its place.
    #[error("too many connections wait for a handshake")]
    Displaced,
    /// The transport failed.
    #[error(transparent)]
    Transport(E),
}

impl<T> Transport for Handshakes<T>
where
    T: Transport + Unpin,
    T::Error: 'static,
    T::Dial: Unpin,
    T::ListenerUpgrade: Unpin,
{
    type Output = T::Output;
    type Error = HandshakeError<T::Error>;
    type ListenerUpgrade = Handshake<T::ListenerUpgrade>;
    type Dial = Dial<T::Dial>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        let listening = self.transport.listen_on(id, address);
        listening.map_err(|error| error.map(HandshakeError::Transport))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transport.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let dial = self.transport.dial(address, options);
        dial.map(Dial)
            .map_err(|error| error.map(HandshakeError::Transport))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        for _ in 0..CLOSED_AT_ONCE {
            let event = ready!(Pin::new(&mut self.transport).poll(context));
            let mut place = None;
            if let TransportEvent::Incoming { send_back_addr, .. } = &event {
                place = self.places.take(send_back_addr);
                if place.is_none() {
                    tracing::trace!(address = %send_back_addr, "no place for a handshake");
                    continue;
                }
            }
            return Poll::Ready(
                event
                    .map_upgrade(|upgrade| Handshake {
                        upgrade,
                        place: place.expect("every inbound connection took a place"),
                    })
                    .map_err(HandshakeError::Transport),
            );
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// An outbound connection that is being made.
pub(super) struct Dial<F>(F);

impl<F> Future for Dial<F>
where
    F: TryFuture<Error: Error + 'static> + Unpin,
{
    type Output = Result<F::Ok, HandshakeError<F::Error>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).try_poll(context));
        Poll::Ready(outcome.map_err(HandshakeError::Transport))
    }
}

/// An inbound connection that is being made.
pub(super) struct Handshake<F> {
    upgrade: F,
    place: Place,
}

impl<F> Future for Handshake<F>
where
    F: TryFuture<Error: Error + 'static> + Unpin,
{
    type Output = Result<F::Ok, HandshakeError<F::Error>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if Pin::new(&mut self.place.displaced).poll(context).is_ready() {
            return Poll::Ready(Err(HandshakeError::Displaced));
        }
        let outcome = ready!(Pin::new(&mut self.upgrade).try_poll(context));
        Poll::Ready(outcome.map_err(HandshakeError::Transport))
    }
}

/// Where a connection comes from, as far as one host cannot choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    Ip4(Ipv4Addr),
    /// The first 64 bits.
    Ip6(u64),
    /// Through a relay, which tells no address.
    Relay,
}

impl Origin {
    fn of(address: &Multiaddr) -> Origin {
        let ip = address.iter().find_map(|part| match part {
            Protocol::Ip4(address) => Some(Origin::Ip4(address)),
            Protocol::Ip6(address) => Some(match address.to_ipv4_mapped() {
                Some(address) => Origin::Ip4(address),
                None => Origin::Ip6((address.to_bits() >> 64) as u64),
            }),
            _ => None,
        });
        ip.unwrap_or(Origin::Relay)
    }
}

/// The places of all handshakes.
#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<Table>>);

impl Places {
    fn take(&self, address: &Multiaddr) -> Option<Place> {
        let (number, displaced) = self.lock().take(Origin::of(address), Instant::now())?;
        Some(Place {
            places: self.clone(),
            number,
            displaced,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place; dropping it gives it back.
#[derive(Debug)]
struct Place {
    places: Places,
    number: u64,
    /// Ready once another connection has the place.
    displaced: oneshot::Receiver<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().give_back(self.number);
    }
}

/// A place that is taken.
#[derive(Debug)]
struct Taken {
    number: u64,
    origin: Origin,
    since: Instant,
    /// Dropped when another connection takes the place.
    _displace: oneshot::Sender<()>,
}

/// Who has a place, in the order of arrival.
#[derive(Debug, Default)]
struct Table {
    taken: VecDeque<Taken>,
    next: u64,
}

impl Table {
    fn take(&mut self, origin: Origin, now: Instant) -> Option<(u64, oneshot::Receiver<()>)> {
        if self.taken.len() >= limits::MAX_HANDSHAKES {
            let weakest = self.weakest(origin, now)?;
            self.taken.remove(weakest);
        }
        let (displace, displaced) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        self.taken.push_back(Taken {
            number,
            origin,
            since: now,
            _displace: displace,
        });
        Some((number, displaced))
    }

    /// The place that a new connection from `origin` may take over.
    fn weakest(&self, origin: Origin, now: Instant) -> Option<usize> {
        let mut counts: HashMap<Origin, usize> = HashMap::new();
        for taken in &self.taken {
            *counts.entry(taken.origin).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let with_new = counts.get(&origin).map_or(1, |count| count + 1);
        let oldest = self
            .taken
            .iter()
            .position(|taken| counts[&taken.origin] == most)?;
        let age = now.saturating_duration_since(self.taken[oldest].since);
        (most > with_new || age >= PATIENCE).then_some(oldest)
    }

    fn give_back(&mut self, number: u64) {
        self.taken.retain(|taken| taken.number != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = limits::MAX_HANDSHAKES;

    fn origin(address: &str) -> Origin {
        Origin::of(&address.parse().unwrap())
    }

    /// A table in which `origins` took all places in turn, at `now`.
    fn full(origins: &[Origin], now: Instant) -> (Table, Vec<oneshot::Receiver<()>>) {
        let mut table = Table::default();
        let receivers = (0..FULL)
            .map(|place| table.take(origins[place % origins.len()], now).unwrap().1)
            .collect();
        (table, receivers)
    }

    /// Whether a new connection gets a place.
    fn takes(table: &mut Table, origin: Origin, now: Instant) -> bool {
        table.take(origin, now).is_some()
    }

    fn is_displaced(receiver: &mut oneshot::Receiver<()>) -> bool {
        receiver.try_recv().is_err()
    }

    #[test]
    fn an_address_is_one_host() {
        for (one, other, is_same) in [
            ("/ip4/192.0.2.7/tcp/1", "/ip4/192.0.2.7/udp/2/quic-v1", true),
            ("/ip4/192.0.2.7/tcp/1", "/ip4/192.0.2.8/tcp/1", false),
            ("/ip4/192.0.2.7/tcp/1", "/ip6/::ffff:192.0.2.7/tcp/1", true),
            ("/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8::2:3/tcp/1", true),
            (
                "/ip6/2001:db8::1/tcp/1",
                "/ip6/2001:db8:0:1::1/tcp/1",
                false,
            ),
        ] {
            assert_eq!(origin(one) == origin(other), is_same, "{one} {other}");
        }
        let peer = libp2p::PeerId::random();
        assert_eq!(Origin::of(&Protocol::P2p(peer).into()), Origin::Relay);
    }

    #[test]
    fn another_address_takes_a_place_of_the_one_that_has_most() {
        let now = Instant::now();
        let [crowd, honest] = ["/ip4/192.0.2.7", "/ip4/192.0.2.8"].map(origin);
        let (mut table, mut receivers) = full(&[crowd], now);
        assert!(!is_displaced(&mut receivers[0]));
        assert!(takes(&mut table, honest, now));
        assert!(is_displaced(&mut receivers[0]));
        assert!(!is_displaced(&mut receivers[1]));
        assert_eq!(table.taken.len(), FULL);
        // Up to the same number.
        for _ in 1..FULL / 2 {
            assert!(takes(&mut table, honest, now));
        }
        assert!(!takes(&mut table, honest, now));
        assert!(!takes(&mut table, crowd, now));
    }

    #[test]
    fn an_address_takes_places_from_itself_after_a_while() {
        let now = Instant::now();
        let crowd = origin("/ip4/192.0.2.7");
        let (mut table, mut receivers) = full(&[crowd], now);
        assert!(!takes(&mut table, crowd, now + PATIENCE / 2));
        assert!(takes(&mut table, crowd, now + PATIENCE));
        assert!(is_displaced(&mut receivers[0]));
        assert_eq!(table.taken.len(), FULL);
    }

    /// An address with few connections keeps them, also where they are the oldest.
    #[test]
    fn an_address_takes_no_place_from_one_that_has_less() {
        let now = Instant::now();
        let [crowd, honest] = ["/ip4/192.0.2.7", "/ip4/192.0.2.8"].map(origin);
        let mut table = Table::default();
        let (_, mut first) = table.take(honest, now).unwrap();
        let later = now + PATIENCE;
        for _ in 1..FULL {
            assert!(takes(&mut table, crowd, later));
        }
        assert!(!takes(&mut table, crowd, later));
        assert!(takes(&mut table, crowd, later + PATIENCE));
        assert!(!is_displaced(&mut first));
    }

    #[test]
    fn many_addresses_with_one_connection_each_wait_for_the_oldest() {
        let now = Instant::now();
        let origins: Vec<_> = (0..FULL)
            .map(|host| origin(&format!("/ip4/192.0.2.{host}")))
            .collect();
        let (mut table, mut receivers) = full(&origins, now);
        let new = origin("/ip4/198.51.100.1");
        assert!(!takes(&mut table, new, now));
        assert!(takes(&mut table, new, now + PATIENCE));
        assert!(is_displaced(&mut receivers[0]));
    }

    #[test]
    fn a_place_is_given_back() {
        let places = Places::default();
        let address = "/ip4/192.0.2.7/tcp/1".parse().unwrap();
        let mut held: Vec<_> = (0..FULL).map(|_| places.take(&address).unwrap()).collect();
        assert!(places.take(&address).is_none());
        held.pop();
        held.push(places.take(&address).unwrap());
        assert!(places.take(&address).is_none());
        drop(held);
        assert!(places.lock().taken.is_empty());
    }
}
