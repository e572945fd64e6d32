//! A client that spends as little as it can.
//!
//! It shares its cores with the server, and what it spends on a call it spends for every contender: a dear client
//! makes them look alike. So it speaks the binary protocol over the server's socket by itself, one request at a
//! time, each a round trip of its own, and hands rows on as the bytes that came.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use std::ops::Range;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use uuid::Uuid;

/// Protocol 3.0.
const VERSION: i32 = 196_608;

/// Bytes received at once: more than the socket holds.
const CHUNK: usize = 256 * 1024;

/// Kind and length in front of each message.
const HEAD: usize = 5;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub struct Address {
    /// The server's socket.
    pub socket: PathBuf,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
}

/// A connection.
pub struct Wire {
    stream: UnixStream,
    output: Vec<u8>,
    input: Vec<u8>,
    /// What of `input` has come and was not looked at.
    begin: usize,
    end: usize,
    /// A notification came while something else was awaited.
    notified: bool,
}

impl Wire {
    /// Connects; the server must trust the user.
    pub async fn connect(address: &Address) -> Result<Wire> {
        let stream = UnixStream::connect(&address.socket)
            .await
            .with_context(|| format!("cannot connect to {}", address.socket.display()))?;
        let mut wire =
            Wire { stream, output: Vec::new(), input: vec![0; CHUNK], begin: 0, end: 0, notified: false };
        wire.message(None, |out| {
            out.extend(VERSION.to_be_bytes());
            let user = ["user", &address.user, "database", &address.database];
            for text in user.into_iter().chain(["application_name", "meshhook-bench", ""]) {
                zero_terminated(out, text);
            }
        });
        wire.send().await?;
        wire.until_ready(|_| {}).await.with_context(|| format!("cannot connect as {}", address.user))?;
        Ok(wire)
    }

    /// Runs statements without parameters; their rows are thrown away.
    pub async fn execute(&mut self, sql: &str) -> Result<()> {
        self.message(Some(b'Q'), |out| zero_terminated(out, sql));
        self.send().await?;
        self.until_ready(|_| {}).await.with_context(|| sql.to_owned())?;
        Ok(())
    }

    /// Prepares a statement under a name; the server finds out the types of its parameters.
    pub async fn prepare(&mut self, name: &str, sql: &str) -> Result<()> {
        self.message(Some(b'P'), |out| {
            zero_terminated(out, name);
            zero_terminated(out, sql);
            out.extend(0_i16.to_be_bytes());
        });
        self.message(Some(b'S'), |_| {});
        self.send().await?;
        self.until_ready(|_| {}).await.with_context(|| sql.to_owned())?;
        Ok(())
    }

    /// Runs a prepared statement, shows each row as it comes, and says how many came.
    pub async fn query(
        &mut self,
        name: &str,
        parameters: impl FnOnce(&mut Parameters<'_>),
        row: impl FnMut(Row<'_>),
    ) -> Result<u64> {
        self.message(Some(b'B'), |out| {
            // The unnamed portal; every parameter and every column in binary.
            zero_terminated(out, "");
            zero_terminated(out, name);
            out.extend([0, 1, 0, 1]);
            let count = out.len();
            out.extend(0_i16.to_be_bytes());
            let mut parameters_of = Parameters { out, count: 0 };
            parameters(&mut parameters_of);
            let number = parameters_of.count.to_be_bytes();
            out[count..count + 2].copy_from_slice(&number);
            out.extend([0, 1, 0, 1]);
        });
        self.message(Some(b'E'), |out| {
            zero_terminated(out, "");
            out.extend(0_i32.to_be_bytes());
        });
        self.message(Some(b'S'), |_| {});
        self.send().await?;
        self.until_ready(row).await
    }

    /// Waits for a notification. May be dropped while it waits.
    pub async fn notification(&mut self) -> Result<()> {
        while !self.notified {
            match self.next_message() {
                Some((kind, body)) => self.note(kind, body)?,
                None => self.fill().await?,
            }
        }
        self.notified = false;
        Ok(())
    }

    /// Adds a message to what is to be sent; the first one of a connection has no kind.
    fn message(&mut self, kind: Option<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        self.output.extend(kind);
        let start = self.output.len();
        self.output.extend([0; 4]);
        body(&mut self.output);
        let length = self.output.len() - start;
        patch_length(&mut self.output, start, length);
    }

    async fn send(&mut self) -> Result<()> {
        let sent = self.stream.write_all(&self.output).await;
        self.output.clear();
        sent.context("cannot send")
    }

    /// Takes messages until the server is ready for the next request. An error is returned only then, so that the
    /// connection stays usable.
    async fn until_ready(&mut self, mut row: impl FnMut(Row<'_>)) -> Result<u64> {
        let mut rows = 0;
        let mut error = None;
        loop {
            match self.next_message() {
                None => self.fill().await?,
                Some((b'D', body)) => {
                    rows += 1;
                    row(Row(&self.input[body]));
                }
                Some((b'Z', _)) => return error.map_or(Ok(rows), Err),
                Some((kind, body)) => {
                    if let Err(e) = self.note(kind, body) {
                        error.get_or_insert(e);
                    }
                }
            }
        }
    }

    /// What may come at any time.
    fn note(&mut self, kind: u8, body: Range<usize>) -> Result<()> {
        let body = &self.input[body];
        match kind {
            b'A' => self.notified = true,
            b'E' => return Err(server_error(body)),
            // Anything but "you are in".
            b'R' if body != [0; 4] => bail!("the server wants a password"),
            _ => {}
        }
        Ok(())
    }

    /// The next message that has come as a whole: its kind, and where its body lies.
    fn next_message(&mut self) -> Option<(u8, Range<usize>)> {
        let total = self.length_of_next()?;
        (self.end - self.begin >= total).then(|| {
            let (start, end) = (self.begin, self.begin + total);
            self.begin = end;
            (self.input[start], start + HEAD..end)
        })
    }

    /// Length of the next message with its head, once that has come.
    fn length_of_next(&self) -> Option<usize> {
        let head = self.input[self.begin..self.end].get(1..HEAD)?;
        Some(1 + i32::from_be_bytes(head.try_into().ok()?).cast_unsigned() as usize)
    }

    /// Receives what has come, or waits for more.
    async fn fill(&mut self) -> Result<()> {
        let needed = self.length_of_next().unwrap_or(HEAD);
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.begin + needed > self.input.len() {
            self.input.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if needed > self.input.len() {
            self.input.resize(needed, 0);
        }
        let received = self.stream.read(&mut self.input[self.end..]).await.context("cannot receive")?;
        ensure!(received > 0, "the server closed the connection");
        self.end += received;
        Ok(())
    }
}

/// The parameters of one call, in order.
pub struct Parameters<'a> {
    out: &'a mut Vec<u8>,
    count: i16,
}

impl Parameters<'_> {
    /// A `text` or `varchar`.
    pub fn text(&mut self, value: &str) {
        self.value(|out| out.extend(value.as_bytes()));
    }

    /// A `bigint`.
    pub fn int8(&mut self, value: i64) {
        self.value(|out| out.extend(value.to_be_bytes()));
    }

    /// A `uuid`.
    pub fn uuid(&mut self, value: Uuid) {
        self.value(|out| out.extend(value.as_bytes()));
    }

    /// A `jsonb`, given as text.
    pub fn jsonb(&mut self, value: &str) {
        self.value(|out| jsonb(out, value));
    }

    /// A `text[]`.
    pub fn texts<'t>(&mut self, values: impl ExactSizeIterator<Item = &'t str>) {
        self.array(25, values, |out, value| out.extend(value.as_bytes()));
    }

    /// A `jsonb[]`.
    pub fn jsonbs<'t>(&mut self, values: impl ExactSizeIterator<Item = &'t str>) {
        self.array(3802, values, jsonb);
    }

    /// A `bigint[]`.
    pub fn int8s(&mut self, values: impl ExactSizeIterator<Item = i64>) {
        self.array(20, values, |out, value| out.extend(value.to_be_bytes()));
    }

    /// A `uuid[]`.
    pub fn uuids(&mut self, values: impl ExactSizeIterator<Item = Uuid>) {
        self.array(2950, values, |out, value| out.extend(value.as_bytes()));
    }

    fn array<T>(
        &mut self,
        element: i32,
        values: impl ExactSizeIterator<Item = T>,
        mut encode: impl FnMut(&mut Vec<u8>, T),
    ) {
        let length = i32::try_from(values.len()).unwrap_or(i32::MAX);
        self.value(|out| {
            // One dimension without nulls, counted from 1.
            for number in [1, 0, element, length, 1] {
                out.extend(number.to_be_bytes());
            }
            for value in values {
                with_length(out, |out| encode(out, value));
            }
        });
    }

    fn value(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.count += 1;
        with_length(self.out, encode);
    }
}

/// A row as it came: nothing is read but what is asked for.
#[derive(Clone, Copy)]
pub struct Row<'a>(&'a [u8]);

impl<'a> Row<'a> {
    /// A column's bytes; `None` when it is null or does not exist.
    pub fn column(&self, number: usize) -> Option<&'a [u8]> {
        let (count, mut rest) = self.0.split_first_chunk()?;
        if number >= usize::from(u16::from_be_bytes(*count)) {
            return None;
        }
        for _ in 0..number {
            let (length, after) = rest.split_first_chunk()?;
            // A null has the length -1.
            rest = after.get(usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0)..)?;
        }
        let (length, after) = rest.split_first_chunk()?;
        after.get(..usize::try_from(i32::from_be_bytes(*length)).ok()?)
    }

    /// A `bigint` column; `None` when it is null or something else.
    pub fn int8(&self, number: usize) -> Option<i64> {
        self.column(number)?.try_into().ok().map(i64::from_be_bytes)
    }
}

fn zero_terminated(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

fn jsonb(out: &mut Vec<u8>, text: &str) {
    // The version of the format.
    out.push(1);
    out.extend(text.as_bytes());
}

fn with_length(out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    encode(out);
    let length = out.len() - start - 4;
    patch_length(out, start, length);
}

fn patch_length(out: &mut [u8], at: usize, length: usize) {
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// An error in the words of the server: SQLSTATE, message and DETAIL.
fn server_error(body: &[u8]) -> anyhow::Error {
    let field = |kind: u8| {
        let mut fields = body.split(|&byte| byte == 0);
        let found = fields.find(|field| field.first() == Some(&kind));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    anyhow!("{} {} {}", field(b'C'), field(b'M'), field(b'D'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found() {
        let body = [0, 3, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2];
        let row = Row(&body);
        assert_eq!(row.column(0), Some(&b"x"[..]));
        assert_eq!(row.column(1), None);
        assert_eq!((row.int8(0), row.int8(1), row.int8(2), row.int8(3)), (None, None, Some(258), None));
        assert_eq!(Row(&[]).column(0), None);
    }

    #[test]
    fn parameters_have_their_lengths() {
        let mut out = Vec::new();
        let mut parameters = Parameters { out: &mut out, count: 0 };
        parameters.text("ab");
        parameters.int8s([7].into_iter());
        assert_eq!(parameters.count, 2);
        let head = [0, 0, 0, 2, b'a', b'b', 0, 0, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20];
        let tail = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(out, [&head[..], &tail[..]].concat());
    }

    #[test]
    fn errors_speak() {
        let error = server_error(b"SERROR\0C23505\0Mduplicate key\0Dof something\0\0");
        assert_eq!(error.to_string(), "23505 duplicate key of something");
    }
}
