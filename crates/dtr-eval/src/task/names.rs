//! Names for phonebooks, those the bundled parent knows as single tokens.

/// First names.
pub(super) const FIRST: [&str; 64] = [
    "Alice", "Bob", "Carol", "David", "Emma", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Liam", "Maria", "Nathan",
    "Olivia", "Peter", "Quinn", "Rachel", "Samuel", "Tina", "Ursula", "Victor", "Wendy", "Xavier", "Yvonne", "Zoe", "Aaron",
    "Bella", "Carlos", "Diana", "Edgar", "Fiona", "George", "Hannah", "Isaac", "Julia", "Kevin", "Laura", "Martin", "Nina",
    "Oscar", "Paula", "Ralph", "Sofia", "Thomas", "Uma", "Vera", "Walter", "Ximena", "Yusuf", "Zara", "Albert", "Bruno", "Clara",
    "Derek", "Elena", "Felix", "Gloria", "Hugo", "Ivan", "Jonas", "Klara", "Leo", "Mona",
];

/// Last names.
pub(super) const LAST: [&str; 64] = [
    "Adams", "Baker", "Clark", "Davis", "Evans", "Foster", "Garcia", "Harris", "Ingram", "Jones", "King", "Lewis", "Miller",
    "Nelson", "Owens", "Parker", "Quincy", "Reed", "Smith", "Turner", "Underwood", "Vance", "White", "Xiong", "Young", "Ziegler",
    "Allen", "Brown", "Cooper", "Dixon", "Ellis", "Fisher", "Green", "Hughes", "Irwin", "Jackson", "Kelly", "Lopez", "Moore",
    "Newman", "Ortiz", "Perry", "Rivera", "Scott", "Taylor", "Upton", "Vargas", "Watson", "Yates", "Zimmer", "Abbott", "Barnes",
    "Chavez", "Dalton", "Eaton", "Fuller", "Gibson", "Hayes", "Jensen", "Keller", "Lambert", "Mason", "Norris", "Powell",
];
