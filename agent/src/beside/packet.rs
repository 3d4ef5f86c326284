//! The packets that are asked about, and what a rule may look at: pure.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family};

/// TCP, as the packets are.
pub const TCP: u64 = 6;

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// By which interface it comes.
    pub from: String,
    /// By which it leaves; `None`: it is for this host.
    pub to: Option<String>,
    /// Its source; `None`: another host, whichever.
    pub source: Option<IpAddr>,
    /// Its destination.
    pub destination: IpAddr,
    /// Its destination port; it is TCP.
    pub port: u16,
}

/// A port that clients take for their end of a connection.
const CLIENT_PORT: u64 = 40_000;

impl Packet {
    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(self.destination)
    }
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The interface by which it comes.
    From,
    /// The interface by which it leaves.
    To,
    /// Its source.
    Source,
    /// Its destination.
    Destination,
    /// 4 or 6.
    Family,
    /// Its protocol's number.
    Protocol,
    /// Its source port.
    SourcePort,
    /// Its destination port.
    DestinationPort,
    /// What connection tracking says of it: `new`.
    State,
    /// What connection tracking did to it: nothing.
    Status,
    /// What its destination is to this host: `local`, or `unicast`.
    DestinationType,
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A word: the name of an interface, a state.
    Word(String),
    /// What names of interfaces begin with.
    Prefix(String),
    /// Addresses.
    Net(Cidr),
    /// From one address to another.
    Addresses(IpAddr, IpAddr),
    /// Numbers, both ends included.
    Numbers(u64, u64),
    /// Anything.
    Any,
    /// It is not understood.
    Unknown,
}

impl Pattern {
    /// Whether the field of the packet is that; `None`: it cannot be told.
    pub fn fits(&self, field: Field, packet: &Packet) -> Option<bool> {
        let number = match field {
            Field::From => return self.fits_word(&packet.from),
            Field::To => return self.fits_word(packet.to.as_deref().unwrap_or_default()),
            Field::State => return self.fits_word("new"),
            Field::Status => return self.fits_word(""),
            Field::DestinationType if packet.to.is_none() => return self.fits_word("local"),
            Field::DestinationType => return self.fits_word("unicast"),
            Field::Source => {
                return packet
                    .source
                    .map_or_else(|| self.is_all(), |source| self.fits_address(source));
            }
            Field::Destination => return self.fits_address(packet.destination),
            Field::Family => match packet.family() {
                Family::V4 => 4,
                Family::V6 => 6,
            },
            Field::Protocol => TCP,
            Field::SourcePort => CLIENT_PORT,
            Field::DestinationPort => u64::from(packet.port),
        };
        match self {
            Self::Numbers(low, high) => Some((*low..=*high).contains(&number)),
            Self::Any => Some(true),
            _ => None,
        }
    }

    fn fits_word(&self, word: &str) -> Option<bool> {
        match self {
            Self::Word(wanted) => Some(wanted == word),
            Self::Prefix(prefix) => Some(!word.is_empty() && word.starts_with(prefix.as_str())),
            Self::Any => Some(true),
            _ => None,
        }
    }

    /// Of an address that is not known.
    fn is_all(&self) -> Option<bool> {
        match self {
            Self::Any => Some(true),
            Self::Net(net) if net.prefix_len() == 0 => Some(true),
            _ => None,
        }
    }

    fn fits_address(&self, address: IpAddr) -> Option<bool> {
        match self {
            Self::Net(net) => Some(net.contains(address)),
            // Addresses of another family are greater or smaller as a whole.
            Self::Addresses(low, high) => Some((*low..=*high).contains(&address)),
            Self::Any => Some(true),
            _ => None,
        }
    }
}
