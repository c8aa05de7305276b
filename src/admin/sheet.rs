//! A CSV file (RFC 4180) as chunks of rows. Rows need not be of one length: what is missing or too
//! much is for the command to say, which names the row and goes on with the rest.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
};

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use serde_json::Value;
use server::command::CommandError;

/// Rows in one call: enough to keep the server busy, few enough to show progress.
const ROWS: usize = 500;

/// Bytes in one call, about; a request is bounded by [`MAX_REQUEST`](crate::socket::MAX_REQUEST).
const BYTES: usize = 1 << 20;

/// A file that is being read.
pub(crate) struct Sheet {
    name: String,
    reader: Reader<Box<dyn Read>>,
    size: Option<u64>,
    started: bool,
}

/// Rows for one call.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The rows, as arrays of texts.
    pub(crate) rows: Vec<Value>,
    /// The line of the file on which each begins, from 1.
    pub(crate) lines: Vec<u64>,
    /// Rows, by their place in the chunk, that cannot be sent: sent as rows without fields, so that
    /// the command counts and names them, for this reason.
    pub(crate) bad: HashMap<usize, &'static str>,
}

impl Sheet {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(name: &str) -> Result<Self, CommandError> {
        if name == "-" {
            return Ok(Self::new("standard input", Box::new(io::stdin()), None));
        }
        let file = File::open(name).map_err(|why| unreadable(name, &why.to_string()))?;
        let size = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
        Ok(Self::new(name, Box::new(file), size))
    }

    fn new(name: &str, read: Box<dyn Read>, size: Option<u64>) -> Self {
        // With one byte as the end of a row, and one at the end of the file in any case, the line that
        // the reader stands on after a row is always the next; that of CRLF is half a line early.
        let read: Box<dyn Read> = Box::new(read.chain(&b"\n"[..]));
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(read);
        Self { name: name.into(), reader, size, started: false }
    }

    /// Its length in bytes, if that is known.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// How many bytes have been read.
    pub(crate) fn position(&self) -> u64 {
        self.reader.position().byte()
    }

    /// The next rows; none at the end. Of an empty file there is one chunk, without rows.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn chunk(&mut self) -> Result<Option<Chunk>, CommandError> {
        let (mut chunk, mut bytes, mut record) = (Chunk::default(), 0, ByteRecord::new());
        while chunk.rows.len() < ROWS && bytes < BYTES {
            let more = self.reader.read_byte_record(&mut record);
            if !more.map_err(|why| unreadable(&self.name, &why.to_string()))? {
                break;
            }
            let first = chunk.rows.is_empty() && !self.started;
            let last = record.len().saturating_sub(1);
            let fields: Option<Vec<&str>> = record
                .iter()
                .enumerate()
                .map(|(i, field)| {
                    // Spreadsheets like to begin with a byte order mark.
                    let mark =
                        if first && i == 0 { field.strip_prefix(b"\xef\xbb\xbf") } else { None };
                    let field = mark.unwrap_or(field);
                    let end = if i == last { field.strip_suffix(b"\r") } else { None };
                    std::str::from_utf8(end.unwrap_or(field)).ok()
                })
                .collect();
            if fields.as_deref() == Some(&[""]) {
                continue;
            }
            let fields = match fields {
                Some(fields) if record.as_slice().len() <= BYTES => fields,
                fields => {
                    let why = if fields.is_some() { "it is too long" } else { "it is not UTF-8" };
                    chunk.bad.insert(chunk.rows.len(), why);
                    Vec::new()
                }
            };
            bytes += record.as_slice().len();
            let within = record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
            chunk.lines.push(self.reader.position().line().saturating_sub(1 + within));
            chunk.rows.push(fields.into());
        }
        let last = chunk.rows.is_empty() && self.started;
        self.started = true;
        Ok((!last).then_some(chunk))
    }
}

fn unreadable(name: &str, why: &str) -> CommandError {
    CommandError::failed(format!("cannot read `{name}`: {why}"))
        .hint("name a CSV file that you may read, or `-` for standard input")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chunks(bytes: &[u8]) -> Vec<Chunk> {
        let mut sheet = Sheet::new("test", Box::new(io::Cursor::new(bytes.to_vec())), None);
        std::iter::from_fn(|| sheet.chunk().unwrap()).collect()
    }

    #[test]
    fn rows_keep_their_fields_and_their_lines() {
        for end in ["\n", "\r\n"] {
            let text =
                ["\u{feff}a,b", "\"x,\"\"y\",2,3", "", "\"two", "lines\",4", "last"].join(end);
            let chunks = chunks(text.as_bytes());
            assert_eq!(chunks.len(), 1);
            let two = format!("two{end}lines");
            assert_eq!(
                Value::from(chunks[0].rows.clone()),
                json!([["a", "b"], ["x,\"y", "2", "3"], [two, "4"], ["last"]])
            );
            assert_eq!(chunks[0].lines, [1, 2, 4, 6], "{end:?}");
        }
    }

    #[test]
    fn large_files_come_in_chunks() {
        let text: String = (0..1201).map(|i| format!("{i}\n")).collect();
        let chunks = chunks(text.as_bytes());
        assert_eq!(
            chunks.iter().map(|chunk| chunk.rows.len()).collect::<Vec<_>>(),
            [500, 500, 201]
        );
        assert_eq!(chunks[2].lines[200], 1201);
    }

    #[test]
    fn what_cannot_be_sent_is_named_and_the_rest_goes_on() {
        let mut bytes = b"a\n\xff\xfe\n".to_vec();
        bytes.extend(vec![b'x'; BYTES + 1]);
        bytes.extend(b"\nb\n");
        let chunks = chunks(&bytes);
        assert_eq!(Value::from(chunks[0].rows.clone()), json!([["a"], [], []]));
        assert_eq!(chunks[0].bad, HashMap::from([(1, "it is not UTF-8"), (2, "it is too long")]));
        assert_eq!(Value::from(chunks[1].rows.clone()), json!([["b"]]));
    }

    #[test]
    fn an_empty_file_is_one_chunk_without_rows() {
        let chunks = chunks(b"");
        assert_eq!(chunks.len(), 1);
        assert!(chunks[0].rows.is_empty());
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let error = Sheet::open("/no/such/file.csv").err().unwrap();
        assert!(error.message.starts_with("cannot read `/no/such/file.csv`"));
    }
}
