//! A name server on loopback that answers as it is told.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

/// By name: one entry for each question for IPv4 addresses that is still to come; the last one stays.
type Names = HashMap<String, Vec<Vec<IpAddr>>>;

/// Answers for the life of the process. Nothing that it says may be kept; names it does not know do not exist.
#[derive(Clone)]
pub struct NameServer {
    address: SocketAddr,
    names: Arc<Mutex<Names>>,
}

impl NameServer {
    /// Starts it.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("no loopback port: {e}"));
        let address = socket.local_addr().unwrap_or_else(|e| panic!("no local address: {e}"));
        let server = NameServer { address, names: Arc::default() };
        let answering = server.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((size, from)) = socket.recv_from(&mut buffer) {
                let answer =
                    Message::from_vec(&buffer[..size]).ok().and_then(|asked| answering.answer(&asked));
                // Whoever asked and is gone misses nothing.
                answer.and_then(|answer| socket.send_to(&answer, from).ok());
            }
        });
        server
    }

    /// Where to ask.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers questions for `name` with `answers` in turn, each some addresses; the last one answers all that follow.
    ///
    /// # Panics
    /// When an address is none.
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let address = |text: &&str| text.parse().unwrap_or_else(|e| panic!("{text:?} is no address: {e}"));
        let answers = answers.iter().map(|all| all.iter().map(address).collect()).collect();
        self.lock().insert(format!("{name}."), answers);
    }

    fn answer(&self, asked: &Message) -> Option<Vec<u8>> {
        let query = asked.queries.first()?.clone();
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        match self.lock().get_mut(&query.name().to_string().to_lowercase()) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(answers) => {
                let asked_for_v4 = query.query_type() == RecordType::A;
                for address in answers.first()? {
                    let data = match address {
                        IpAddr::V4(v4) if asked_for_v4 => RData::A((*v4).into()),
                        IpAddr::V6(v6) if !asked_for_v4 => RData::AAAA((*v6).into()),
                        _ => continue,
                    };
                    answer.add_answer(Record::from_rdata(query.name().clone(), 0, data));
                }
                if asked_for_v4 && answers.len() > 1 {
                    answers.remove(0);
                }
            }
        }
        answer.add_query(query);
        answer.to_vec().ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
