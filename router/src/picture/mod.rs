//! A diagram as PNG: our own SVG, painted in process, with the one font that comes with the program.
//! Nothing is read from disk or network, and the memory of a picture is bounded, as is how many are
//! painted at a time.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{ImageHrefResolver, Options, Tree, fontdb};
use tokio::sync::Semaphore;

use crate::error::{ApiError, Applied};

/// The font; its licence stands beside it.
const FONT: &[u8] = include_bytes!("roboto.ttf");
/// Most pixels of a picture, of four bytes each; a larger one is scaled down to so many.
const PIXELS_MAX: f32 = 12_000_000.0;
/// Longest side of a picture, in pixels.
const SIDE_MAX: f32 = 16_000.0;
/// Pixels to a pixel of the SVG, where there is room for them.
const SCALE: f32 = 2.0;
/// Pictures painted at a time.
const PAINTED_MAX: usize = 2;

static PAINTING: Semaphore = Semaphore::const_new(PAINTED_MAX);

static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    Arc::new(fonts)
});

/// Paints an SVG of ours. 429 when others are being painted, 503 when it cannot be.
pub(crate) async fn png(svg: String) -> Result<Vec<u8>, ApiError> {
    let place = PAINTING
        .try_acquire()
        .map_err(|_| ApiError::overloaded("other pictures are being painted; try again shortly"))?;
    let painted = tokio::task::spawn_blocking(move || {
        let _place = place;
        paint(&svg)
    });
    let failed =
        |why: String| ApiError::unavailable(Applied::No, format!("the picture cannot be painted: {why}"));
    painted.await.map_err(|_| failed("its painter stopped".into()))?.map_err(failed)
}

fn paint(svg: &str) -> Result<Vec<u8>, String> {
    let options = Options {
        font_family: "Roboto".into(),
        fontdb: Arc::clone(&FONTS),
        image_href_resolver: ImageHrefResolver {
            resolve_data: Box::new(|_, _, _| None),
            resolve_string: Box::new(|_, _| None),
        },
        ..Options::default()
    };
    let tree = Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let (width, height) = (tree.size().width(), tree.size().height());
    let scale = SCALE.min((PIXELS_MAX / (width * height)).sqrt()).min(SIDE_MAX / width.max(height));
    // Both are positive and bounded by what stands above.
    let [wide, high] = [width, height].map(|side| (side * scale).ceil().max(1.0) as u32);
    let mut pixels = Pixmap::new(wide, high).ok_or("there is no room for it")?;
    pixels.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Width and height, from the head of a PNG.
    fn size(png: &[u8]) -> (u32, u32) {
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        (number(16), number(20))
    }

    fn svg(width: u32, height: u32, inside: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\">{inside}</svg>"
        )
    }

    #[test]
    fn letters_are_painted_and_nothing_else_is_read() {
        let empty = paint(&svg(100, 40, "")).unwrap();
        let text = "<style>text{font-family:Roboto,sans-serif}</style><text x=\"5\" y=\"20\">ab</text>";
        let written = paint(&svg(100, 40, text)).unwrap();
        assert_eq!(size(&written), (200, 80));
        assert!(written.len() > empty.len() + 50, "{} and {} bytes", written.len(), empty.len());
        let other = paint(&svg(100, 40, "<image href=\"/etc/passwd\" width=\"9\" height=\"9\"/>")).unwrap();
        assert_eq!(other, empty);
    }

    #[test]
    fn a_large_picture_is_scaled_down() {
        for (width, height) in [(3_000, 90_000), (200_000, 40), (9_000, 9_000)] {
            let (wide, high) = size(&paint(&svg(width, height, "")).unwrap());
            assert!(
                u64::from(wide) * u64::from(high) < 13_000_000 && wide.max(high) <= 16_001,
                "{wide}×{high}"
            );
        }
        assert!(paint("<svg").is_err());
    }
}
