//! A small HTTP server for the tests of this room: a real socket, one thread per connection, faults on demand.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// One request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Method, path and query.
    pub(super) line: String,
    /// Header lines in lower case.
    pub(super) headers: Vec<String>,
    pub(super) body: Vec<u8>,
}

/// What the server does with a request.
pub(super) enum Reaction {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes and closes.
    SendAndClose(Vec<u8>),
    /// Closes without an answer.
    Cut,
    /// Answers nothing until the client goes away.
    Hang,
}

impl Reaction {
    /// 200 with a JSON body.
    pub(super) fn json(body: &str) -> Self {
        Self::status("200 OK", "", body)
    }

    /// `headers`: whole lines, each with its CRLF.
    pub(super) fn status(status: &str, headers: &str, body: &str) -> Self {
        Self::Send(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }
}

pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl TestServer {
    /// Every request is answered as `react` says.
    pub(super) fn start(react: impl Fn(&Request) -> Reaction + Send + Sync + 'static) -> Self {
        Self::start_cutting(0, react)
    }

    /// The first `cuts` connections are closed before anything is read.
    pub(super) fn start_cutting(cuts: usize, react: impl Fn(&Request) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            connections: Arc::default(),
            stop: Arc::default(),
            acceptor: None,
        };
        let (requests, connections, stop) = (server.requests.clone(), server.connections.clone(), server.stop.clone());
        let react = Arc::new(react);
        server.acceptor = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                if connections.fetch_add(1, Ordering::SeqCst) < cuts {
                    continue;
                }
                let (requests, react, stream) = (requests.clone(), react.clone(), stream.unwrap());
                thread::spawn(move || serve(stream, &requests, &*react));
            }
        }));
        server
    }

    pub(super) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has come so far, in order.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many connections were accepted.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve(stream: TcpStream, requests: &Mutex<Vec<Request>>, react: &dyn Fn(&Request) -> Reaction) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        requests.lock().unwrap().push(request.clone());
        match react(&request) {
            Reaction::Send(bytes) => {
                if writer.write_all(&bytes).is_err() {
                    return;
                }
            }
            Reaction::SendAndClose(bytes) => {
                let _ = writer.write_all(&bytes);
                return;
            }
            Reaction::Cut => return,
            Reaction::Hang => {
                let _ = reader.read(&mut [0]);
                return;
            }
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let headers: Vec<String> = lines[1..].iter().map(|line| line.to_ascii_lowercase()).collect();
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line: lines.remove(0).replace(" HTTP/1.1", ""), headers, body })
}
