//! Server-sent events out of a stream of bytes that may be cut anywhere.

use thiserror::Error;

/// Bytes that one line or one event may have: far above any chunk of an answer, so that a peer that sends no
/// line break cannot fill the memory.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// An event longer than the bound.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an event of the stream is longer than {MAX_EVENT_BYTES} bytes; is this an event stream?")]
pub(super) struct TooLong;

/// Collects the `data` of events (WHATWG HTML, server-sent events); other fields and comments are ignored.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    /// The line that is not complete.
    line: Vec<u8>,
    /// Data lines of the event that is not complete; `None` before the first.
    data: Option<String>,
    /// Whether the last byte was a carriage return, whose line feed is still to come or not.
    after_return: bool,
}

impl EventParser {
    /// Takes the next bytes and returns the data of the events that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let ends_line = match byte {
                b'\n' => !std::mem::take(&mut self.after_return),
                b'\r' => {
                    self.after_return = true;
                    true
                }
                _ => {
                    self.after_return = false;
                    self.line.push(byte);
                    false
                }
            };
            if ends_line {
                events.extend(self.end_line());
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    /// Takes up a complete line; an empty one completes the event.
    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": comment\r\n\r\ndata: {\"a\":\"grün ✓\"}\n\nevent: x\ndata:1\r\ndata: 2\r\rid: 3\n\n\
                          data\n\ndata: [DONE]\r\n\r\n";
    const EVENTS: [&str; 4] = ["{\"a\":\"grün ✓\"}", "1\n2", "", "[DONE]"];

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        let bytes = STREAM.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut parser = EventParser::default();
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let events: Vec<String> =
                    parts.iter().flat_map(|part| parser.push(part).unwrap()).collect();
                assert_eq!(events, EVENTS, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn events_come_with_the_byte_that_completes_them() {
        let mut parser = EventParser::default();
        assert!(parser.push(b"data: 1\n").unwrap().is_empty());
        assert_eq!(parser.push(b"\n").unwrap(), ["1"]);
    }

    #[test]
    fn an_endless_line_is_an_error() {
        let mut parser = EventParser::default();
        let part = vec![b'x'; MAX_EVENT_BYTES];
        assert_eq!(parser.push(&part), Ok(Vec::new()));
        assert_eq!(parser.push(b"x"), Err(TooLong));
    }
}
