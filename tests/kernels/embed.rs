//! Embedding, gather and scatter: copies, so bit for bit.

use colloquy::backend::*;

use crate::support::*;

#[test]
fn rows_are_copied_by_index() {
    for mut d in devices() {
        for width in [8, 40, 192, 576] {
            let mut random = Random(width as u64);
            let rows = 21;
            let values = random.values(50 * width, 1.0);
            let table = d.backend.load_table(WeightView::from_f32(&values, 50, width)).unwrap();
            let exact = d.stored(&values);
            let mut plan = plan_of(&Segments { name: "base", parts: vec![(0, rows)] }, &[Slot::BASE]);
            plan.tokens = (0..rows).map(|_| random.below(50) as u32).collect();
            plan.logit_rows = vec![0, 3, 4, 20];
            let out = d.tensor(rows + 3, width, Element::Activation);
            let gathered = d.tensor(4, width, Element::Activation);
            let scattered = d.tensor(rows, width, Element::Activation);
            d.run(
                &plan,
                [
                    Op::Embed { table, out },
                    Op::GatherRows { x: out, out: gathered },
                    Op::ScatterRows { dy: gathered, dx: scattered },
                ],
            );
            let row = |i: u32| &exact[plan.tokens[i as usize] as usize * width..][..width];
            for (i, got) in d.download(out, rows).chunks_exact(width).enumerate() {
                assert_bits("embed", got, row(i as u32));
            }
            for (got, &i) in d.download(gathered, 4).chunks_exact(width).zip(&plan.logit_rows) {
                assert_bits("gather", got, row(i));
            }
            for (i, got) in d.download(scattered, rows).chunks_exact(width).enumerate() {
                let zeros = vec![0.0; width];
                let found = plan.logit_rows.contains(&(i as u32));
                assert_bits("scatter", got, if found { row(i as u32) } else { &zeros });
            }
        }
    }
}
