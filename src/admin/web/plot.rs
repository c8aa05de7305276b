//! Lines over time as SVG, drawn here: what a page shows has to be there without scripts, and nothing is
//! loaded from elsewhere. Each line has a colour and a pattern of its own, and the page has the same
//! numbers as a table, so that nothing hangs on seeing colours.

use std::fmt::{self, Write};

use askama::filters::HtmlSafe;
use jiff::{Timestamp, tz::TimeZone};

/// The drawing in units of its own; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 38.0;
/// Lines across.
const STEPS: u64 = 4;

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) values: Vec<u64>,
}

impl Line {
    fn last(&self) -> u64 {
        self.values.last().copied().unwrap_or_default()
    }
}

/// Some lines over the same time.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    unit: &'static str,
    /// Seconds since the epoch, one for each value.
    times: Vec<i64>,
    pub(super) lines: Vec<Line>,
}

impl Chart {
    pub(super) fn new(
        title: &'static str,
        unit: &'static str,
        times: &[i64],
        lines: Vec<Line>,
    ) -> Self {
        Self { title, unit, times: times.to_vec(), lines }
    }

    /// What is at the end of each line, for the legend: its number, its name, and that.
    pub(super) fn legend(&self) -> Vec<(usize, &'static str, String)> {
        let entry = |(index, line): (usize, &Line)| {
            (index, line.name, format!("{}{}", line.last(), self.unit))
        };
        self.lines.iter().enumerate().map(entry).collect()
    }

    /// Whether there is anything to draw.
    pub(super) fn is_drawn(&self) -> bool {
        self.times.len() > 1
    }

    /// The drawing.
    pub(super) fn svg(&self) -> Svg<'_> {
        Svg(self)
    }

    /// The top of the scale: a round number that everything is below.
    fn top(&self) -> u64 {
        let most = self.lines.iter().flat_map(|line| &line.values).copied().max().unwrap_or(0);
        let step = most.div_ceil(STEPS).max(1);
        let scale = 10_u64.saturating_pow(step.ilog10());
        let round = [1, 2, 5, 10].into_iter().map(|n| n * scale).find(|round| *round >= step);
        round.unwrap_or(step).saturating_mul(STEPS)
    }

    fn x(&self, at: i64) -> f64 {
        let first = self.times.first().copied().unwrap_or_default();
        let last = self.times.last().copied().unwrap_or_default();
        let span = (last - first).max(1) as f64;
        LEFT + (at - first) as f64 / span * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: u64, top: u64) -> f64 {
        HEIGHT - BOTTOM - value as f64 / top as f64 * (HEIGHT - TOP - BOTTOM)
    }
}

/// A chart as an element.
pub(super) struct Svg<'a>(&'a Chart);

/// Numbers, and words of ours.
impl HtmlSafe for Svg<'_> {}

impl fmt::Display for Svg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chart = self.0;
        let top = chart.top();
        let title = chart.title;
        write!(
            f,
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\""
        )?;
        write!(f, "{title}; now ")?;
        for (index, name, value) in chart.legend() {
            write!(f, "{}{name} {value}", if index > 0 { ", " } else { "" })?;
        }
        f.write_str("\">")?;
        for step in 0..=STEPS {
            let value = top / STEPS * step;
            let y = chart.y(value, top);
            write!(
                f,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text class=\"tick\" x=\"{:.1}\" \
                 y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
            )?;
        }
        let ends = [chart.times.first(), chart.times.last()];
        for (at, anchor) in ends.into_iter().flatten().zip(["start", "end"]) {
            let time = Timestamp::from_second(*at).unwrap_or_default().to_zoned(TimeZone::UTC);
            write!(
                f,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{} UTC</text>",
                chart.x(*at),
                HEIGHT - 8.0,
                time.strftime("%H:%M"),
            )?;
        }
        for (index, line) in chart.lines.iter().enumerate() {
            let mut points = String::new();
            for (at, value) in chart.times.iter().zip(&line.values) {
                write!(points, "{:.1},{:.1} ", chart.x(*at), chart.y(*value, top))?;
            }
            write!(f, "<polyline class=\"line line-{index}\" points=\"{}\"/>", points.trim_end())?;
        }
        f.write_str("</svg>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[u64]) -> Chart {
        let times: Vec<i64> = (0..values.len() as i64).map(|index| index * 30).collect();
        Chart::new("Ends", "", &times, vec![Line { name: "ends", values: values.to_vec() }])
    }

    #[test]
    fn the_scale_is_round_and_above_everything() {
        for (most, top) in [(0, 4), (4, 4), (5, 8), (17, 20), (81, 200), (1_000_001, 2_000_000)] {
            assert_eq!(chart(&[0, most]).top(), top, "{most}");
        }
    }

    #[test]
    fn lines_go_from_edge_to_edge_and_stay_inside() {
        let svg = chart(&[0, 20, 10]).svg().to_string();
        assert!(svg.contains("points=\"64.0,182.0 346.0,22.0 628.0,102.0\""), "{svg}");
        assert!(svg.contains("aria-label=\"Ends; now ends 10\""), "{svg}");
    }
}
