"""The first bytes by which kinds of files are known: pictures, archives, and what is sometimes given in their place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """`name`: one word for the program. `words`: what it is, for people. `remedy`: what to do about it.

    Files that something here reads: `safetensors` `torch` `torch-legacy` `pickle` `npz` `npy` `picture`, and `text`.
    Files that stand where another was meant to be: `empty` `zeros` `truncated` `web-page` `pointer` `message`
    `packed` `torch-script` `other-picture` `other` `unknown`.
    """

    name: str
    words: str
    remedy: str = ""


CONVERT = "convert it to PNG or TIFF first"
READ_PICTURES = ("PNG", "JPEG", "GIF", "WebP", "TIFF", "BMP", "AVIF")  # the others must be converted

# (offset, bytes, name) of pictures
PICTURES = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBPVP8", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftypcrx", "Canon raw"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xffO\xffQ", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "NIfTI"),
    (0, b"\0\0\x01\0\x01", "icon"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"P5\n", "PGM"),
    (0, b"P6\n", "PPM"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
)

# (offset, bytes, name, the command that unpacks it)
PACKED = (
    (0, b"\x1f\x8b", "gzip", "gunzip"),
    (0, b"\x1f\x9d", "compress", "uncompress"),
    (4, b"1AY&SY", "bzip2", "bunzip2"),
    (0, b"\xfd7zXZ\0", "xz", "unxz"),
    (0, b"LZIP", "lzip", "lzip -d"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard", "unzstd"),
    (0, b"\x04\x22\x4d\x18", "LZ4", "unlz4"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x"),
    (0, b"Rar!\x1a\x07", "RAR", "unrar x"),
    (0, b"MSCF", "cabinet", "cabextract"),
    (257, b"ustar", "tar", "tar xf"),
    (32769, b"CD001", "ISO", "7z x"),
)

# (offset, bytes, what it is): sound files of kinds that nothing here reads
OTHERS = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, or MATLAB 7.3)"),
    (0, b"MATLAB 5.0", "a MATLAB file"),
    (0, b"GGUF", "a GGUF model of a language model"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\xd0\xcf\x11\xe0", "an Office document"),
    (0, b"{\\rtf", "an RTF document"),
    (4, b"ftyp", "a film (MP4 or QuickTime)"),
    (0, b"\x1a\x45\xdf\xa3", "a film (Matroska or WebM)"),
    (8, b"AVI ", "a film (AVI)"),
    (0, b"ID3\x03", "a sound file (MP3)"),
    (8, b"WAVE", "a sound file (WAV)"),
    (0, b"OggS", "a sound file (Ogg)"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ\x90\0", "a program (Windows)"),
    (0, b"\xcf\xfa\xed\xfe", "a program (macOS)"),
    (0, b"L\0\0\0\x01\x14\x02\0", "a Windows shortcut"),
    (0, b"book\0\0\0\0mark", "a macOS alias"),
    (0, b"[InternetShortcut]", "an internet shortcut"),
    (0, b"bplist00", "a macOS property list (a saved web page, or a shortcut)"),
    (0, b"d8:announce", "a torrent: the list of a download, not its file"),
)
LENGTH = 32774  # bytes from the start that are enough for all of these
