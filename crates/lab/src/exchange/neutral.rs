//! Own neutral texts: what activations are measured on where nobody says on what.

/// Plain sentences for two halves; lower case and without signs, so that the smallest vocabulary has them.
pub(super) const TEXTS: [[&str; 8]; 2] = [
    [
        "the train leaves the station at nine in the morning.",
        "bread is made of flour and water and a little salt.",
        "my sister keeps bees in the garden behind her house.",
        "how long does it take to walk around the lake.",
        "the library is open until six on most days.",
        "a good chair should be firm and not too low.",
        "please name three trees that lose their leaves.",
        "we painted the kitchen in a pale shade of green.",
    ],
    [
        "rain fell all night and the river is high today.",
        "the museum shows maps that sailors used long ago.",
        "what is the best way to store apples for the winter.",
        "he plays the cello in a small orchestra.",
        "the bridge was closed for repairs last summer.",
        "write one line about the sound of the sea.",
        "most cats sleep for more than half of the day.",
        "the market sells cheese and honey and fresh herbs.",
    ],
];
