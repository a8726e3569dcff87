//! Noise in the place of weights: the same numbers on every device, in tensors, tables and linears.

use super::support::*;
use colloquy::backend::*;

/// The formula at the head of `kernels/noise.cu`, with SplitMix64 as its authors write it.
fn reference(seed: u64, scale: f32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..count)
        .map(|_| {
            let unit = (next() >> 40) as f64 / f64::from(1 << 23) - 1.0;
            half::bf16::from_f32((f64::from(scale) * unit) as f32).to_f32()
        })
        .collect()
}

#[test]
fn noise_is_splitmix_in_bf16_wherever_it_is_made() {
    // Of the authors' program, started at 1234567.
    assert_eq!(mix(1_234_567u64.wrapping_add(0x9e37_79b9_7f4a_7c15)), 6_457_827_717_110_365_317);
    for mut d in devices() {
        for (seed, scale, rows, width) in [(1, 1.0, 1, 8), (7, 0.03, 5, 40), (u64::MAX, 2.5, 33, 192)] {
            let (count, noise) = (rows * width, Noise { seed, scale });
            let expected = reference(seed, scale, count);
            let what = format!("{}: seed {seed}", d.name);

            let t = d.tensor(rows + 1, width, Element::Activation);
            d.backend.fill_noise(t, count, noise).unwrap();
            let got = d.download(t, rows + 1);
            assert_bits(&what, &got[..count], &expected);
            let beyond = &got[count..];
            assert!(d.precision == Precision::F32 || beyond.iter().all(|x| x.is_nan()), "{what}: {beyond:?}");

            // As a table, whose rows the embedding gives back, and as a part of a linear, behind another.
            let view = WeightView { bytes: &[], dtype: WeightType::Noise(noise), rows, cols: width };
            let table = d.backend.load_table(view).unwrap();
            let mut plan = plan_of(&Segments { name: "base", parts: vec![(0, rows)] }, &[Slot::BASE]);
            plan.tokens = (0..rows as u32).collect();
            d.run(&plan, [Op::Embed(Embed { table, drawn: None, out: t })]);
            assert_bits(&what, &d.download(t, rows), &expected);

            let zeros = vec![0.0; 3 * width];
            let parts = [WeightView::from_f32(&zeros, 3, width), view];
            let linear = LinearSpec { parts: &parts, bias: None, backward: false };
            let linear = d.backend.load_linear(linear).unwrap();
            // y = W x of unit vectors: the columns of W.
            let columns = width.min(8);
            let mut units = vec![0.0; columns * width];
            (0..columns).for_each(|i| units[i * width + i] = 1.0);
            let x = d.upload(&units, width);
            let y = d.tensor(columns, 3 + rows, Element::Activation);
            let plan = plan_of(&Segments { name: "base", parts: vec![(0, columns)] }, &[Slot::BASE]);
            let (group, shrink, residual) = (None, None, None);
            d.run(
                &plan,
                [Op::LinearForward(LinearForward { linear, group, x, lora_x: None, shrink, residual, y })],
            );
            for (i, got) in d.download(y, columns).chunks_exact(3 + rows).enumerate() {
                let column: Vec<f32> = (0..rows).map(|r| expected[r * width + i]).collect();
                assert_bits(&what, &got[..3], &[0.0; 3]);
                assert_bits(&what, &got[3..], &column);
            }
            [t, x, y].into_iter().for_each(|t| d.backend.free(t));
        }
    }
}

#[test]
fn noise_is_uniform() {
    let all: Vec<f64> = (0..100_000).map(|i| f64::from(Noise { seed: 3, scale: 1.0 }.at(i))).collect();
    let n = all.len() as f64;
    let (mean, variance) = (all.iter().sum::<f64>() / n, all.iter().map(|x| x * x).sum::<f64>() / n);
    // Five standard errors of the mean of uniform numbers in -1 .. 1, and of their square.
    assert!(mean.abs() < 5.0 * (1.0 / 3.0 / n).sqrt(), "{mean}");
    assert!((variance - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / n).sqrt() + 1e-4, "{variance}");
    assert!(all.iter().all(|x| (-1.0..=1.0).contains(x)));
}
