//! TensorBoard's event files: TFRecords (a length, the bytes, a checksum after each) of Event messages, written by
//! hand.
//!
//! Formats: tensorflow's `core/lib/io/record_writer.h`, `core/util/event.proto` and `core/framework/summary.proto`.

/// An event file's bytes. What goes in decides what comes out: an event's `wall_time` is its step in seconds after
/// 1970.
pub struct Events {
    bytes: Vec<u8>,
}

impl Default for Events {
    fn default() -> Self {
        let mut events = Self { bytes: Vec::new() };
        // Event.file_version, the first of every file.
        let mut event = Vec::new();
        field_double(&mut event, 1, 0.0);
        field_bytes(&mut event, 3, b"brain.Event:2");
        events.record(&event);
        events
    }
}

impl Events {
    /// Adds numbers of one step, each under its tag.
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f32)>) {
        let mut summary = Vec::new();
        for (tag, number) in values {
            let mut value = Vec::new();
            field_bytes(&mut value, 1, tag.as_bytes()); // Summary.Value.tag
            value.push(2 << 3 | 5); // Summary.Value.simple_value, 32 bits
            value.extend(number.to_le_bytes());
            field_bytes(&mut summary, 1, &value); // Summary.value
        }
        if summary.is_empty() {
            return;
        }
        let mut event = Vec::new();
        field_double(&mut event, 1, step as f64); // Event.wall_time
        event.push(2 << 3); // Event.step
        varint(&mut event, step);
        field_bytes(&mut event, 5, &summary); // Event.summary
        self.record(&event);
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn record(&mut self, data: &[u8]) {
        let length = (data.len() as u64).to_le_bytes();
        self.bytes.extend(length);
        self.bytes.extend(masked(&length).to_le_bytes());
        self.bytes.extend(data);
        self.bytes.extend(masked(data).to_le_bytes());
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn field_double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

/// A checksum as the format stores it, so that checksums of data that holds checksums stay good.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected, a bit at a time: event files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        // Appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // Rotated right by 15, and the constant added.
        assert_eq!(masked(b"123456789"), 0x2507_c60du32.wrapping_add(0xa282_ead8));
    }

    #[test]
    fn the_first_record_is_the_files_version() {
        let events = Events::default();
        let event = b"\x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2";
        assert_eq!(events.bytes()[..8], (event.len() as u64).to_le_bytes());
        assert_eq!(&events.bytes()[12..12 + event.len()], event);
        assert_eq!(events.bytes().len(), 16 + event.len());
    }
}
