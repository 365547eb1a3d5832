"""The words samples are made of. No key occurs in the filler: it is found in its needle alone."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


KEYS: tuple[str, ...] = _words(
    """
    harbour lantern piano garden bridge castle window mirror candle ladder hammer needle button
    pocket blanket pillow carpet curtain kitchen bedroom bathroom cellar attic roof chimney fence
    gate tunnel tower temple church school library museum theatre cinema hospital factory office
    station airport hotel restaurant bakery butcher pharmacy bank prison stadium circus zoo park
    forest desert island mountain valley river lake ocean beach cliff cave volcano glacier swamp
    meadow jungle waterfall canyon planet star moon comet rocket satellite telescope engine wheel
    tractor bicycle motorcycle truck train tram boat ship submarine helicopter balloon parachute
    kite lion tiger bear wolf fox rabbit squirrel mouse rat beaver badger otter seal whale dolphin
    shark salmon trout crab lobster octopus turtle snake lizard frog toad spider ant bee butterfly
    beetle cricket eagle hawk owl crow raven sparrow pigeon swan duck goose chicken turkey peacock
    parrot penguin horse donkey camel elephant giraffe zebra monkey gorilla kangaroo koala panda
    goat sheep cow pig dog cat hamster apple pear peach plum cherry grape lemon orange banana
    mango melon strawberry coconut walnut almond peanut potato tomato carrot onion garlic cabbage
    lettuce spinach pepper cucumber pumpkin bean corn rice wheat bread butter cheese milk cream
    honey sugar salt vinegar mustard chocolate cake cookie pie soup salad sandwich sausage bacon
    ham pizza pasta tea coffee juice wine beer whisky shirt jacket coat sweater dress skirt
    trousers sock shoe boot sandal hat helmet glove scarf belt tie ring necklace bracelet earring
    watch purse wallet umbrella suitcase backpack envelope stamp newspaper magazine dictionary
    novel poem diary notebook pencil pen eraser ruler scissors glue paint brush canvas statue
    portrait photograph camera radio television computer keyboard printer telephone battery magnet
    compass calendar clock alarm bell whistle drum trumpet violin guitar flute harp organ choir
    orchestra opera ballet concert festival carnival parade wedding funeral birthday holiday
    picnic dinner breakfast lunch supper recipe oven stove fridge freezer kettle teapot cup mug
    plate bowl spoon fork knife bottle jar bucket barrel crate sack rope chain hook anchor sail
    paddle oar net trap cage nest hive web shell pearl coral sponge feather fur leather wool
    cotton silk velvet linen denim rubber plastic glass marble granite brick cement timber bamboo
    copper silver gold iron steel bronze diamond ruby emerald crystal crown throne sword shield
    arrow bow cannon pistol uniform medal flag trophy ticket passport licence contract receipt
    coin banknote ladle thermometer microscope laboratory medicine bandage crutch wheelchair
    dentist surgeon nurse lawyer judge sheriff detective soldier captain admiral general colonel
    senator president king queen prince princess duke knight wizard witch dragon giant dwarf fairy
    ghost vampire mermaid unicorn robot pirate cowboy clown dancer actor singer poet sculptor
    architect engineer chemist astronaut pilot sailor fisherman hunter shepherd miner blacksmith
    carpenter plumber electrician mechanic tailor barber cook waiter
    """
)
"""What needles, pairs and random spans name: common concrete nouns."""
ADJECTIVES: tuple[str, ...] = _words(
    """
    old young quiet tall kind tired clever busy happy shy brave careful cheerful lazy polite proud
    """
)
PEOPLE: tuple[str, ...] = _words(
    """
    farmer teacher doctor neighbour student painter writer gardener merchant traveller uncle aunt
    brother sister grandmother grandfather cousin stranger visitor friend builder driver weaver
    potter
    """
)
ACTIONS: tuple[str, ...] = _words(
    """
    carried found repaired bought sold cleaned borrowed painted lifted noticed wrapped dropped
    washed moved measured described
    """
)
COLOURS: tuple[str, ...] = _words(
    """
    red blue green black white brown yellow grey pink purple
    """
)
NAMES: tuple[str, ...] = _words(
    """
    Anna Tom Maria Peter Lucy James Emma David Sarah Paul Laura Mark Alice Henry Jane
    """
)
OBJECTS: tuple[str, ...] = _phrases(
    """
    a heavy basket | a small box | a wooden chair | a broken lamp | some fresh flowers | a long
    letter | a warm stone | two empty bags | a thin book | a round table | several dry leaves | a
    white cloth | some old tools | a narrow shelf | a large map | a soft cushion | the last parcel
    | a clean towel | some loose boards | a simple toy | the green door | a strange picture | a
    pair of slippers | the other bench
    """
)
PLACES: tuple[str, ...] = _phrases(
    """
    near the village square | behind the barn | along the dusty road | in the corner of the hall |
    beside the well | at the edge of the field | under the big tree | on the way home | outside
    the little shop | next to the stairs | across the street | in front of the house | by the
    stream | at the crossroads | inside the shed | close to the market
    """
)
TIMES: tuple[str, ...] = _phrases(
    """
    before sunrise | after a long rest | on a cold morning | late in the afternoon | during the
    storm | while the children slept | without saying a word | for no clear reason | in the early
    evening | just before noon | as the rain began | with great patience | all by themselves |
    once more | in a great hurry | as always
    """
)
