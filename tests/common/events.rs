//! A reader of TensorBoard's event files that shares nothing with their writer: checksums by table, protobuf by field.

use std::path::Path;

/// An event.
#[derive(Debug, Default)]
pub struct Event {
    pub wall_time: f64,
    pub step: u64,
    pub version: Option<String>,
    pub scalars: Vec<(String, f32)>,
}

/// All events of a file, whose lengths and checksums must be right.
pub fn read(path: &Path) -> Vec<Event> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut rest, mut events) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(
            u32::from_le_bytes(rest[8..12].try_into().unwrap()),
            mask(crc32c(&rest[..8])),
            "length's CRC"
        );
        let (data, after) = rest[12..].split_at(length);
        assert_eq!(u32::from_le_bytes(after[..4].try_into().unwrap()), mask(crc32c(data)), "data's CRC");
        events.push(event(data));
        rest = &after[4..];
    }
    events
}

/// Every point of a tag, by step.
pub fn points(events: &[Event], tag: &str) -> Vec<(u64, f32)> {
    let of =
        |e: &Event| e.scalars.iter().filter(|(t, _)| t == tag).map(|(_, v)| (e.step, *v)).collect::<Vec<_>>();
    events.iter().flat_map(of).collect()
}

fn event(data: &[u8]) -> Event {
    let mut event = Event::default();
    for (field, value) in fields(data) {
        match (field, value) {
            (1, Field::Fixed64(bits)) => event.wall_time = f64::from_bits(bits),
            (2, Field::Varint(step)) => event.step = step,
            (3, Field::Bytes(text)) => event.version = Some(String::from_utf8(text.to_vec()).unwrap()),
            (5, Field::Bytes(summary)) => {
                for (field, value) in fields(summary) {
                    let (1, Field::Bytes(value)) = (field, value) else { panic!("summary field {field}") };
                    let (mut tag, mut number) = (None, None);
                    for (field, value) in fields(value) {
                        match (field, value) {
                            (1, Field::Bytes(text)) => tag = Some(String::from_utf8(text.to_vec()).unwrap()),
                            (2, Field::Fixed32(bits)) => number = Some(f32::from_bits(bits)),
                            (field, _) => panic!("value field {field}"),
                        }
                    }
                    event.scalars.push((tag.unwrap(), number.unwrap()));
                }
            }
            (field, _) => panic!("event field {field}"),
        }
    }
    event
}

enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

fn fields(mut data: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let mut take = |n: usize| {
            let (head, tail) = data.split_at(n);
            data = tail;
            head
        };
        let value = match key & 7 {
            1 => Field::Fixed64(u64::from_le_bytes(take(8).try_into().unwrap())),
            5 => Field::Fixed32(u32::from_le_bytes(take(4).try_into().unwrap())),
            0 => Field::Varint(varint(&mut data)),
            2 => {
                let length = varint(&mut data) as usize;
                let (head, tail) = data.split_at(length);
                data = tail;
                Field::Bytes(head)
            }
            kind => panic!("wire type {kind}"),
        };
        found.push((key >> 3, value));
    }
    found
}

fn varint(data: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = data.split_first().unwrap();
        *data = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

fn mask(crc: u32) -> u32 {
    // Upper and lower bits change places.
    let (high, low) = (crc >> 15, crc << 17);
    (high | low).wrapping_add(0xa282_ead8)
}

/// The Castagnoli polynomial, highest power first, over bits that are turned round before and after.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut table = [0u32; 256];
    for (i, entry) in table.iter_mut().enumerate() {
        *entry = (i as u32) << 24;
        for _ in 0..8 {
            *entry = if *entry >> 31 == 1 { (*entry << 1) ^ 0x1edc_6f41 } else { *entry << 1 };
        }
    }
    let turned = bytes.iter().map(|b| b.reverse_bits());
    let crc = turned.fold(u32::MAX, |crc, b| (crc << 8) ^ table[((crc >> 24) as u8 ^ b) as usize]);
    !crc.reverse_bits()
}
