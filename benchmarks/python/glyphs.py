#!/usr/bin/env python3
"""Draws a set of small grey images of characters, as four IDX files with class names.

Classes are Latin, Greek and Cyrillic letters, digits and punctuation; of characters that look alike when they are scaled,
slanted or turned a little, one is kept. Test images are of other font families than training images. Every image is one
character under a random affine map, in a random weight and contrast, on a random texture, with noise, and often partly
covered.

The same seed gives the same bytes, as long as fonts and Pillow are the same.

    apt-get install $(benchmarks/python/glyphs.py --packages)
    pip install numpy Pillow
    benchmarks/python/glyphs.py --out glyphs
    nes-search run --data glyphs
"""

import argparse
import gzip
import multiprocessing
import struct
import sys
from functools import lru_cache
from pathlib import Path

SIZE = 32
"""Height and width of an image, in pixels."""

SOURCE = 72
"""Font size that characters are drawn at, in pixels, before they are mapped."""

FONTS = Path("/usr/share/fonts")

CLASSES = (
    "ABCDEFGHJKLMNPQRSTUVWXYZ"
    "abdefghijmnqrty"
    "0123456789"
    "ΓΔΛΞΠΣΦΨΩ"
    "βδεζλμξπσω"
    "БДЖИЙЦЧШЩЪЫЭЮЯЄЂЋЉЊЏЇб"
    "ÆæŒœÞþðŁđħŋ"
    "ÅÄÇÉÊÑÖÔŠÜŽâáğř"
    "!?&%#$@*+=<>{}[]()§€£¥~^;\"÷±¿«»¶©®"
)

# Package, directory below FONTS, and for each family the files of its faces. Families that imitate each other are on one side.
TRAINING = [
    ("fonts-dejavu-core", "truetype/dejavu", [
        "DejaVuSans.ttf DejaVuSans-Bold.ttf",
        "DejaVuSerif.ttf DejaVuSerif-Bold.ttf",
        "DejaVuSansMono.ttf DejaVuSansMono-Bold.ttf",
    ]),
    ("fonts-liberation2", "truetype/liberation2", [
        "LiberationSans-Regular.ttf LiberationSans-Bold.ttf LiberationSans-Italic.ttf LiberationSans-BoldItalic.ttf",
        "LiberationSerif-Regular.ttf LiberationSerif-Bold.ttf LiberationSerif-Italic.ttf LiberationSerif-BoldItalic.ttf",
        "LiberationMono-Regular.ttf LiberationMono-Bold.ttf LiberationMono-Italic.ttf LiberationMono-BoldItalic.ttf",
    ]),
    ("fonts-freefont-ttf", "truetype/freefont", ["FreeMono.ttf FreeMonoBold.ttf FreeMonoOblique.ttf"]),
    ("fonts-cmu", "truetype/cmu", [
        "cmunrm.ttf cmunbx.ttf cmunsl.ttf",
        "cmunss.ttf cmunsx.ttf cmunsi.ttf",
        "cmuntt.ttf cmunst.ttf",
    ]),
    ("fonts-lato", "truetype/lato", ["Lato-Regular.ttf Lato-Bold.ttf Lato-Light.ttf Lato-Italic.ttf Lato-Black.ttf"]),
    ("fonts-ebgaramond", "opentype/ebgaramond", ["EBGaramond12-Regular.otf EBGaramond12-Italic.otf"]),
    ("fonts-firacode", "truetype/firacode", ["FiraCode-Light.ttf FiraCode-Regular.ttf FiraCode-Bold.ttf"]),
    ("fonts-jetbrains-mono", "truetype/jetbrains-mono", [
        "JetBrainsMono-Light.ttf JetBrainsMono-Regular.ttf JetBrainsMono-Italic.ttf JetBrainsMono-ExtraBold.ttf",
    ]),
    ("fonts-linuxlibertine", "opentype/linux-libertine", [
        "LinLibertine_R.otf LinLibertine_RB.otf LinLibertine_RI.otf",
        "LinBiolinum_R.otf LinBiolinum_RB.otf LinBiolinum_RI.otf",
    ]),
    ("fonts-open-sans", "truetype/open-sans", [
        "OpenSans-Light.ttf OpenSans-Regular.ttf OpenSans-Italic.ttf OpenSans-Semibold.ttf OpenSans-ExtraBold.ttf",
    ]),
    ("fonts-inter", "opentype/inter", ["Inter-Light.otf Inter-Regular.otf Inter-Italic.otf Inter-Black.otf"]),
    ("fonts-comfortaa", "truetype/comfortaa", ["Comfortaa-Light.ttf Comfortaa-Regular.ttf Comfortaa-Bold.ttf"]),
    ("fonts-urw-base35", "opentype/urw-base35", [
        "P052-Roman.otf P052-Bold.otf P052-Italic.otf P052-BoldItalic.otf",
        "C059-Roman.otf C059-Bold.otf C059-Italic.otf C059-BdIta.otf",
        "URWGothic-Book.otf URWGothic-Demi.otf URWGothic-BookOblique.otf",
    ]),
    ("fonts-anonymous-pro", "truetype/anonymous-pro", [
        "Anonymous_Pro.ttf Anonymous_Pro_B.ttf Anonymous_Pro_I.ttf",
    ]),
    ("fonts-tuffy", "truetype/tuffy", ["Tuffy.ttf Tuffy_Bold.ttf Tuffy_Italic.ttf"]),
    ("fonts-monoid", "truetype/monoid", ["Monoid-Regular.ttf Monoid-Bold.ttf Monoid-Italic.ttf"]),
]
TEST = [
    ("fonts-roboto-unhinted", "truetype/roboto/unhinted/RobotoTTF", [
        "Roboto-Light.ttf Roboto-Regular.ttf Roboto-Bold.ttf Roboto-Italic.ttf Roboto-Black.ttf",
    ]),
    ("fonts-roboto-slab", "opentype/roboto/slab", ["RobotoSlab-Light.otf RobotoSlab-Regular.otf RobotoSlab-Bold.otf"]),
    ("fonts-go", "fonts-go", [
        "Go-Regular.ttf Go-Bold.ttf Go-Italic.ttf",
        "Go-Mono.ttf Go-Mono-Bold.ttf Go-Mono-Italic.ttf",
    ]),
    ("fonts-sil-gentiumplus", "truetype/gentiumplus", [
        "GentiumPlus-Regular.ttf GentiumPlus-Bold.ttf GentiumPlus-Italic.ttf GentiumPlus-BoldItalic.ttf",
    ]),
    ("fonts-vollkorn", "truetype/vollkorn", [
        "Vollkorn-Regular.ttf Vollkorn-Bold.ttf Vollkorn-Italic.ttf Vollkorn-Black.ttf",
    ]),
    ("fonts-oldstandard", "truetype/fonts-oldstandard", ["OldStandard-Regular.ttf OldStandard-Bold.ttf"]),
    ("fonts-jura", "opentype/jura", ["Jura-Light.otf Jura-Regular.otf Jura-Bold.otf"]),
    ("fonts-play", "truetype/play", ["Play-Regular.ttf Play-Bold.ttf"]),
    ("fonts-fantasque-sans", "truetype/fantasque-sans/Normal/TTF", [
        "FantasqueSansMono-Regular.ttf FantasqueSansMono-Bold.ttf FantasqueSansMono-Italic.ttf",
    ]),
    ("fonts-manrope", "truetype/manrope", ["Manrope-Light.ttf Manrope-Regular.ttf Manrope-ExtraBold.ttf"]),
    ("fonts-urw-base35", "opentype/urw-base35", [
        "URWBookman-Light.otf URWBookman-Demi.otf URWBookman-LightItalic.otf",
    ]),
]


def packages():
    """The Debian packages of all fonts."""
    return sorted({package for package, _, _ in TRAINING + TEST})


def families(split):
    """For each family of a split, the paths of its faces."""
    found = []
    for package, directory, rows in split:
        for row in rows:
            # Underscores stand for the spaces of file names that have no underscores of their own.
            names = row.split()
            names = [name.replace("_", " ") for name in names] if package == "fonts-anonymous-pro" else names
            paths = [FONTS / directory / name for name in names]
            for path in paths:
                if not path.is_file():
                    sys.exit(f"{path}: expected a font of the Debian package {package}, found no such file: "
                             f"apt-get install {package}")
            found.append([str(path) for path in paths])
    return found


@lru_cache(maxsize=None)
def font(path):
    return ImageFont.truetype(path, SOURCE)


@lru_cache(maxsize=None)
def mask(path, character, bold):
    """A character in white on black, cut to its ink and a margin."""
    left, top, right, bottom = font(path).getbbox(character, stroke_width=bold)
    margin = 2
    image = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin))
    place = (margin - left, margin - top)
    ImageDraw.Draw(image).text(place, character, fill=255, font=font(path), stroke_width=bold)
    return image


def mapped(ink, random):
    """The ink in [0, 1] on an image's pixels, under a random affine map."""
    over = 2
    size, turn = random.uniform(17, 28) * over, np.radians(random.uniform(-15, 15))
    stretch, slant = np.exp(random.uniform(-0.15, 0.15)), random.uniform(-0.2, 0.2)
    shift = random.uniform(-2.5, 2.5, 2) * over
    scale = size / max(ink.size)
    forward = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    forward = forward @ np.array([[1, slant], [0, 1]]) @ np.diag([scale * stretch, scale / stretch])
    inverse = np.linalg.inv(forward)
    centre, middle = np.array(ink.size) / 2, np.array([SIZE, SIZE]) * over / 2 + shift
    offset = centre - inverse @ middle
    rows = (*inverse[0], offset[0], *inverse[1], offset[1])
    big = ink.transform((SIZE * over, SIZE * over), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    small = big.reduce(over)
    blur = random.uniform(0, 0.8)
    return np.asarray(small.filter(ImageFilter.GaussianBlur(blur)), np.float64) / 255


def texture(random):
    """Smooth noise of deviation 1."""
    coarse = random.randint(3, 12)
    grid = Image.fromarray(random.standard_normal((coarse, coarse)).astype(np.float32))
    return np.asarray(grid.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float64)


def cover(random):
    """Which pixels something else covers: a bar or a disc."""
    ys, xs = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    x, y = random.uniform(4, SIZE - 4, 2)
    if random.uniform() < 0.5:
        angle = random.uniform(0, np.pi)
        return np.abs((xs - x) * np.cos(angle) + (ys - y) * np.sin(angle)) < random.uniform(0.8, 2.2)
    return (xs - x) ** 2 + (ys - y) ** 2 < random.uniform(2.5, 5.5) ** 2


def drawn(task):
    """One image as bytes; the task is its seeds, families and character."""
    seeds, faces_of, character = task
    # The sequence of this generator is fixed for all versions of NumPy.
    random = np.random.RandomState(seeds)
    faces = faces_of[random.randint(len(faces_of))]
    ink = mask(faces[random.randint(len(faces))], character, int(random.uniform() < 0.25))
    ink = mapped(ink, random)
    contrast = random.uniform(0.3, 0.9) * random.choice([-1, 1])
    ground = random.uniform(max(0, -contrast), min(1, 1 - contrast))
    image = ground + contrast * ink + texture(random) * random.uniform(0, 0.3) * abs(contrast)
    if random.uniform() < 0.5:
        image = np.where(cover(random), random.uniform(0, 1), image)
    image += random.standard_normal((SIZE, SIZE)) * random.uniform(0.01, 0.08)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8).tobytes()


def split_of(name, each, seed, workers):
    """Pixels and labels of a split, in random order."""
    faces_of = families(TRAINING if name == "train" else TEST)
    order = np.random.RandomState([seed, name == "train"]).permutation(len(CLASSES) * each)
    tasks = [([seed, name == "train", index], faces_of, CLASSES[index % len(CLASSES)]) for index in order.tolist()]
    with multiprocessing.Pool(workers) as pool:
        images = pool.map(drawn, tasks, chunksize=256)
    return b"".join(images), bytes(index % len(CLASSES) for index in order.tolist())


def write(path, shape, content):
    """Writes an IDX file of bytes, in gzip without a time."""
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(header + content)


def generate(out, each_train, each_test, seed, workers):
    """Writes the four IDX files and the class names."""
    splits = [("train", "train", each_train), ("test", "t10k", each_test)]
    made = [(prefix, *split_of(name, each, seed, workers)) for name, prefix, each in splits]
    out.mkdir(parents=True, exist_ok=True)
    for prefix, pixels, labels in made:
        write(out / f"{prefix}-images-idx3-ubyte.gz", [len(labels), SIZE, SIZE], pixels)
        write(out / f"{prefix}-labels-idx1-ubyte.gz", [len(labels)], labels)
    (out / "classes.txt").write_text("".join(f"{character}\n" for character in CLASSES), encoding="utf-8")


def check():
    """Looks for characters that a face lacks or that two classes share, and draws an image twice."""
    assert len(set(CLASSES)) == len(CLASSES), "a class is there twice"
    training, test = families(TRAINING), families(TEST)
    assert not set(sum(training, [])) & set(sum(test, [])), "a face is on both sides"
    for path in sum(training + test, []):
        missing = font(path).getmask("\U0010fffd").getbbox() and bytes(font(path).getmask("\U0010fffd"))
        seen = {}
        for character in CLASSES:
            ink = mask(path, character, 0).tobytes()
            assert any(ink), f"{path}: nothing is drawn for {character}"
            assert bytes(font(path).getmask(character)) != missing, f"{path}: has no {character}"
            assert ink not in seen, f"{path}: {character} looks like {seen[ink]}"
            seen[ink] = character
    task = ([1, 1, 7], training, "Ж")
    first = drawn(task)
    assert first == drawn(task) and len(first) == SIZE * SIZE, "an image is not the same twice"
    assert np.frombuffer(first, np.uint8).std() > 5, "an image is empty"
    print(f"{len(CLASSES)} classes, {len(training)} and {len(test)} families: all is well")


def sheet(path, seed):
    """Saves a picture of some training images (left) and test images (right) of every class."""
    rows = [families(TRAINING)] * 6 + [families(TEST)] * 6
    pixels = np.zeros((len(CLASSES) * SIZE, len(rows) * SIZE), np.uint8)
    for row, character in enumerate(CLASSES):
        for column, faces_of in enumerate(rows):
            image = np.frombuffer(drawn(([seed, 2, row, column], faces_of, character)), np.uint8).reshape(SIZE, SIZE)
            pixels[row * SIZE:][:SIZE, column * SIZE:][:, :SIZE] = image
    fold = -(-len(CLASSES) // 4)
    parts = [pixels[start * SIZE:][:fold * SIZE] for start in range(0, len(CLASSES), fold)]
    parts = [np.pad(part, ((0, fold * SIZE - len(part)), (0, SIZE // 2))) for part in parts]
    Image.fromarray(np.hstack(parts)).save(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="directory of the set, which nes-search reads by --data")
    parser.add_argument("--train-per-class", type=int, default=400, metavar="N", help="training images of each class (400)")
    parser.add_argument("--test-per-class", type=int, default=120, metavar="N", help="test images of each class (120)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of everything random (1)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that draw; by default one for each core")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="saves a PNG with some images of every class")
    parser.add_argument("--packages", action="store_true", help="prints the Debian packages of the fonts")
    parser.add_argument("--check", action="store_true", help="checks fonts and drawing, and writes nothing")
    given = parser.parse_args()
    if min(given.train_per_class, given.test_per_class) < 1:
        parser.error("--train-per-class, --test-per-class: expected at least 1")
    if given.seed < 0 or given.seed > 2**32 - 1:
        parser.error(f"--seed: expected 0 to {2**32 - 1}, found {given.seed}")
    if not (given.out or given.sheet or given.packages or given.check):
        parser.error("expected one of --out, --sheet, --packages, --check")
    return given


if __name__ == "__main__":
    ARGUMENTS = arguments()
    if ARGUMENTS.packages:
        print(*packages())
        sys.exit()

try:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter, ImageFont
except ImportError as error:
    sys.exit(f"{error}: pip install numpy Pillow")

if __name__ == "__main__":
    if ARGUMENTS.check:
        check()
    if ARGUMENTS.sheet:
        sheet(ARGUMENTS.sheet, ARGUMENTS.seed)
    if ARGUMENTS.out:
        generate(
            ARGUMENTS.out, ARGUMENTS.train_per_class, ARGUMENTS.test_per_class, ARGUMENTS.seed, ARGUMENTS.workers
        )
