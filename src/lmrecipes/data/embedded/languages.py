"""Short synthetic sentences in mT5's 24 languages, so that a small multilingual model trains without a download.

The sentences were written for this project. Names, places, numbers, times and years change from one to the next;
numbers are from 11 to 19, with which every language's words keep one form.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache
from typing import NamedTuple

SENTENCES = 400
"""How many each language has."""


class Language(NamedTuple):
    """What the sentences of a language are made of."""

    women: str
    men: str
    places: str
    templates: str
    """A sentence a line: {a} is a woman, {b} a man, {c} a place, {n} a number, {t} a time, {y} a year."""


_WOMEN, _MEN = "Anna Maria Eva Laura Nina Sara", "Peter Martin Adam David Thomas Oskar"

_LANGUAGES = {
    "cs": Language(
        "Anna Marie Eva Laura Nina Sára",
        "Petr Martin Adam David Tomáš Oskar",
        "Praha Brno Olomouc Plzeň Vídeň",
        """{a} pije ráno v {t} kávu s mlékem.
{b} čte knihu o moři a velrybách.
Na stole leží {n} červených jablek.
{c} je velké a staré město.
V roce {y} jsme postavili tento dům.
{a} a {b} se procházejí v parku.
Dnes je {n} stupňů a celý den prší.
Vlak k moři odjíždí v {t} z prvního nástupiště.
{b} má {n} knih a dvě černé kočky.
Moje sestra {a} se učí hrát na klavír.
Víš, kdy přijde {b} domů?
{a} píše dlouhý dopis své babičce.
Obchod zavírá v {t}, proto si pospěš.
V naší zahradě roste {n} starých stromů.""",
    ),
    "da": Language(
        "Anna Marie Eva Laura Nina Sara",
        "Peter Martin Adam David Thomas Oskar",
        "København Aarhus Odense Aalborg Berlin",
        """{a} drikker kaffe med mælk klokken {t} om morgenen.
{b} læser en bog om havet og hvalerne.
Der ligger {n} røde æbler på bordet.
{c} er en stor og gammel by.
I året {y} byggede vi dette hus.
{a} og {b} går en tur i parken.
I dag er det {n} grader, og det regner hele dagen.
Toget til havet kører klokken {t} fra det første spor.
{b} har {n} bøger og to sorte katte.
Min søster {a} lærer at spille klaver.
Ved du, hvornår {b} kommer hjem?
{a} skriver et langt brev til sin bedstemor.
Butikken lukker klokken {t}, så skynd dig.
Der vokser {n} gamle træer i vores have.""",
    ),
    "de": Language(
        _WOMEN,
        _MEN,
        "Berlin Hamburg München Wien Zürich",
        """{a} trinkt morgens um {t} Uhr Kaffee mit Milch.
{b} liest ein Buch über das Meer und die Wale.
Auf dem Tisch liegen {n} rote Äpfel.
{c} ist eine große und alte Stadt.
Im Jahr {y} haben wir dieses Haus gebaut.
{a} und {b} gehen im Park spazieren.
Heute sind es {n} Grad, und es regnet den ganzen Tag.
Der Zug ans Meer fährt um {t} Uhr vom ersten Gleis ab.
{b} hat {n} Bücher und zwei schwarze Katzen.
Meine Schwester {a} lernt Klavier spielen.
Weißt du, wann {b} nach Hause kommt?
{a} schreibt ihrer Großmutter einen langen Brief.
Der Laden schließt um {t} Uhr, also beeil dich.
In unserem Garten wachsen {n} alte Bäume.""",
    ),
    "el": Language(
        "Άννα Μαρία Εύα Λάουρα Νίνα Σοφία",
        "Πέτρος Γιώργος Αδάμ Δαβίδ Θωμάς Νίκος",
        "Αθήνα Πάτρα Λάρισα Λισαβόνα Βιέννη",
        """Η {a} πίνει καφέ με γάλα στις {t} το πρωί.
Ο {b} διαβάζει ένα βιβλίο για τη θάλασσα και τις φάλαινες.
Πάνω στο τραπέζι υπάρχουν {n} κόκκινα μήλα.
Η {c} είναι μια μεγάλη και παλιά πόλη.
Το έτος {y} χτίσαμε αυτό το σπίτι.
Η {a} και ο {b} περπατούν στο πάρκο.
Σήμερα έχει {n} βαθμούς και βρέχει όλη μέρα.
Το τρένο για τη θάλασσα φεύγει στις {t}.
Ο {b} έχει {n} βιβλία και δύο μαύρες γάτες.
Η αδελφή μου, η {a}, μαθαίνει πιάνο.
Ξέρεις πότε γυρίζει σπίτι ο {b};
Η {a} γράφει ένα μεγάλο γράμμα στη γιαγιά της.
Το μαγαζί κλείνει στις {t}, γι' αυτό βιάσου.
Στον κήπο μας μεγαλώνουν {n} παλιά δέντρα.""",
    ),
    "en": Language(
        _WOMEN,
        _MEN,
        "London Dublin Boston Oxford Vienna",
        """{a} drinks coffee with milk at {t} in the morning.
{b} is reading a book about the sea and its whales.
There are {n} red apples on the table.
{c} is a large and old city.
We built this house in the year {y}.
{a} and {b} are walking in the park.
Today it is {n} degrees, and it rains all day.
The train to the sea leaves at {t} from the first platform.
{b} has {n} books and two black cats.
My sister {a} is learning to play the piano.
Do you know when {b} comes home?
{a} is writing a long letter to her grandmother.
The shop closes at {t}, so hurry up.
There are {n} old trees growing in our garden.""",
    ),
    "es": Language(
        "Ana María Eva Laura Nina Sara",
        "Pedro Martín Adán David Tomás Óscar",
        "Madrid Sevilla Valencia Bogotá Lima",
        """{a} toma café con leche a las {t} de la mañana.
{b} lee un libro sobre el mar y las ballenas.
Hay {n} manzanas rojas sobre la mesa.
{c} es una ciudad grande y antigua.
En el año {y} construimos esta casa.
{a} y {b} pasean por el parque.
Hoy hace {n} grados y llueve todo el día.
El tren que va al mar sale a las {t} del primer andén.
{b} tiene {n} libros y dos gatos negros.
Mi hermana {a} aprende a tocar el piano.
¿Sabes cuándo vuelve {b} a casa?
{a} escribe una carta larga a su abuela.
La tienda cierra a las {t}, así que date prisa.
En nuestro jardín crecen {n} árboles viejos.""",
    ),
    "fi": Language(
        "Anna Maria Eeva Laura Niina Saara",
        "Pekka Martti Aatami Taavi Tuomas Oskari",
        "Helsinki Turku Tampere Oulu Tukholma",
        """{a} juo aamulla kello {t} kahvia maidon kanssa.
{b} lukee kirjaa merestä ja valaista.
Pöydällä on {n} punaista omenaa.
{c} on suuri ja vanha kaupunki.
Vuonna {y} rakensimme tämän talon.
{a} ja {b} kävelevät puistossa.
Tänään on {n} astetta, ja koko päivän sataa.
Juna meren rannalle lähtee kello {t} ensimmäiseltä raiteelta.
{b} omistaa {n} kirjaa ja kaksi mustaa kissaa.
Siskoni {a} opettelee soittamaan pianoa.
Tiedätkö, milloin {b} tulee kotiin?
{a} kirjoittaa pitkän kirjeen isoäidilleen.
Kauppa suljetaan kello {t}, joten pidä kiirettä.
Puutarhassamme kasvaa {n} vanhaa puuta.""",
    ),
    "fr": Language(
        "Anne Marie Ève Laure Nina Sara",
        "Pierre Martin Adam David Thomas Oscar",
        "Paris Lyon Genève Bruxelles Vienne",
        """{a} boit un café au lait à {t} du matin.
{b} lit un livre sur la mer et les baleines.
Il y a {n} pommes rouges sur la table.
{c} est une grande et vieille ville.
Nous avons construit cette maison en {y}.
{a} et {b} se promènent dans le parc.
Aujourd'hui, il fait {n} degrés et il pleut toute la journée.
Le train pour la mer part à {t} du premier quai.
{b} possède {n} livres et deux chats noirs.
Ma sœur {a} apprend à jouer du piano.
Sais-tu quand {b} rentre à la maison ?
{a} écrit une longue lettre à sa grand-mère.
Le magasin ferme à {t}, alors dépêche-toi.
Dans notre jardin poussent {n} vieux arbres.""",
    ),
    "hi": Language(
        "अनीता मीरा सीता राधा नीना आशा",
        "राम मोहन अमित विजय सुरेश अर्जुन",
        "दिल्ली मुंबई जयपुर वाराणसी पटना",
        """{a} सुबह {t} बजे दूध वाली चाय पीती है।
{b} समुद्र और मछलियों के बारे में एक किताब पढ़ता है।
मेज़ पर {n} लाल सेब रखे हैं।
{c} एक बड़ा और पुराना शहर है।
हमने यह घर {y} में बनाया था।
{a} और {b} बगीचे में टहल रहे हैं।
आज {n} डिग्री तापमान है और सारा दिन बारिश हो रही है।
समुद्र की ओर जाने वाली रेलगाड़ी {t} बजे चलती है।
{b} के पास {n} किताबें और दो काली बिल्लियाँ हैं।
मेरी बहन {a} पियानो बजाना सीख रही है।
क्या तुम जानते हो कि {b} घर कब आएगा?
{a} अपनी दादी को एक लंबा पत्र लिखती है।
दुकान {t} बजे बंद होती है, इसलिए जल्दी करो।
हमारे बगीचे में {n} पुराने पेड़ हैं।""",
    ),
    "hu": Language(
        "Anna Mária Éva Laura Nina Sára",
        "Péter Márton Ádám Dávid Tamás Oszkár",
        "Budapest Szeged Pécs Debrecen Bécs",
        """{a} reggel {t} órakor tejes kávét iszik.
{b} egy könyvet olvas a tengerről és a bálnákról.
Az asztalon {n} piros alma van.
{c} nagy és régi város.
Ezt a házat a {y}. évben építettük.
{a} és {b} a parkban sétálnak.
Ma {n} fok van, és egész nap esik az eső.
A tengerhez induló vonat {t} órakor indul az első vágányról.
{b} szobájában {n} könyv és két fekete macska van.
A nővérem, {a} zongorázni tanul.
Tudod, mikor jön haza {b}?
{a} hosszú levelet ír a nagymamájának.
A bolt {t} órakor zár, ezért siess.
A kertünkben {n} öreg fa nő.""",
    ),
    "it": Language(
        "Anna Maria Eva Laura Nina Sara",
        "Pietro Martino Adamo Davide Tommaso Oscar",
        "Roma Milano Torino Bologna Vienna",
        """{a} beve un caffè con il latte alle {t} del mattino.
{b} legge un libro sul mare e sulle balene.
Sul tavolo ci sono {n} mele rosse.
{c} è una città grande e antica.
Nel {y} abbiamo costruito questa casa.
{a} e {b} passeggiano nel parco.
Oggi ci sono {n} gradi e piove tutto il giorno.
Il treno per il mare parte alle {t} dal primo binario.
{b} ha {n} libri e due gatti neri.
Mia sorella {a} impara a suonare il pianoforte.
Sai quando torna a casa {b}?
{a} scrive una lunga lettera a sua nonna.
Il negozio chiude alle {t}, quindi sbrigati.
Nel nostro giardino crescono {n} vecchi alberi.""",
    ),
    "ja": Language(
        "花子 美咲 由美 さくら 恵子 直子",
        "太郎 健太 一郎 大輔 翔太 誠",
        "東京 大阪 京都 札幌 神戸",
        """{a}さんは朝の{t}に牛乳入りのコーヒーを飲みます。
{b}さんは海と鯨についての本を読んでいます。
机の上に赤いりんごが{n}個あります。
{c}は大きくて古い町です。
私たちは{y}年にこの家を建てました。
{a}さんと{b}さんは公園を散歩しています。
今日の気温は{n}度で、一日中雨が降っています。
海へ行く電車は{t}に一番線から出ます。
{b}さんは本を{n}冊と黒い猫を二匹持っています。
姉の{a}はピアノを習っています。
{b}さんがいつ家に帰るか知っていますか。
{a}さんは祖母に長い手紙を書いています。
店は{t}に閉まるので、急いでください。
庭には古い木が{n}本あります。""",
    ),
    "ko": Language(
        "지영 민지 수진 영희 은주 미경",
        "민수 철수 준호 성민 동현 재석",
        "서울 부산 대구 인천 광주",
        """{a} 씨는 아침 {t}에 우유를 넣은 커피를 마십니다.
{b} 씨는 바다와 고래에 관한 책을 읽고 있습니다.
책상 위에 빨간 사과가 {n}개 있습니다.
이곳 {c}, 크고 오래된 도시입니다.
우리는 {y}년에 이 집을 지었습니다.
{a} 씨와 {b} 씨는 공원에서 산책하고 있습니다.
오늘 기온은 {n}도이고 하루 종일 비가 옵니다.
바다로 가는 기차는 {t}에 첫 번째 승강장에서 출발합니다.
{b} 씨에게는 책 {n}권과 검은 고양이 두 마리가 있습니다.
제 언니 {a} 씨는 피아노를 배웁니다.
{b} 씨가 언제 집에 오는지 아세요?
{a} 씨는 할머니께 긴 편지를 씁니다.
가게는 {t}에 문을 닫으니 서두르세요.
우리 마당에는 오래된 나무가 {n}그루 있습니다.""",
    ),
    "lt": Language(
        "Ona Marija Ieva Laura Nina Sara",
        "Petras Martynas Adomas Dovydas Tomas Oskaras",
        "Vilnius Kaunas Šiauliai Panevėžys Viena",
        """{a} rytą {t} valandą geria kavą su pienu.
{b} skaito knygą apie jūrą ir banginius.
Ant stalo guli {n} raudonų obuolių.
{c} yra didelis senas miestas.
Šį namą pastatėme {y} metais.
{a} ir {b} vaikštinėja parke.
Šiandien {n} laipsnių, ir visą dieną lyja.
Traukinys prie jūros išvyksta {t} valandą.
{b} turi {n} knygų ir dvi juodas kates.
Mano sesuo {a} mokosi skambinti pianinu.
Ar žinai, kada {b} grįš namo?
{a} rašo ilgą laišką savo močiutei.
Parduotuvė užsidaro {t} valandą, todėl paskubėk.
Mūsų sode auga {n} senų medžių.""",
    ),
    "lv": Language(
        "Anna Marija Ieva Laura Nina Sāra",
        "Pēteris Mārtiņš Ādams Dāvids Toms Oskars",
        "Rīga Liepāja Ventspils Jelgava Vīne",
        """{a} no rīta pulksten {t} dzer kafiju ar pienu.
{b} lasa grāmatu par jūru un vaļiem.
Uz galda ir {n} sarkani āboli.
{c} ir liela un sena pilsēta.
Šo māju mēs uzcēlām {y}. gadā.
{a} un {b} pastaigājas parkā.
Šodien ir {n} grādi, un visu dienu līst.
Vilciens uz jūru atiet pulksten {t} no pirmā perona.
{b} glabā {n} grāmatas un baro divus melnus kaķus.
Mana māsa {a} mācās spēlēt klavieres.
Vai tu zini, kad {b} nāks mājās?
{a} raksta garu vēstuli savai vecmāmiņai.
Veikalu slēdz pulksten {t}, tāpēc pasteidzies.
Mūsu dārzā aug {n} veci koki.""",
    ),
    "nl": Language(
        _WOMEN,
        "Pieter Maarten Adam David Thomas Oscar",
        "Amsterdam Utrecht Gent Antwerpen Wenen",
        """{a} drinkt 's ochtends om {t} uur koffie met melk.
{b} leest een boek over de zee en de walvissen.
Er liggen {n} rode appels op de tafel.
{c} is een grote en oude stad.
In het jaar {y} hebben wij dit huis gebouwd.
{a} en {b} wandelen in het park.
Vandaag is het {n} graden en het regent de hele dag.
De trein naar zee vertrekt om {t} uur van het eerste spoor.
{b} heeft {n} boeken en twee zwarte katten.
Mijn zus {a} leert piano spelen.
Weet jij wanneer {b} thuiskomt?
{a} schrijft een lange brief aan haar grootmoeder.
De winkel sluit om {t} uur, dus schiet op.
In onze tuin groeien {n} oude bomen.""",
    ),
    "no": Language(
        _WOMEN,
        _MEN,
        "Oslo Bergen Trondheim Stavanger Wien",
        """{a} drikker kaffe med melk klokka {t} om morgenen.
{b} leser en bok om havet og hvalene.
Det ligger {n} røde epler på bordet.
{c} er en stor og gammel by.
Vi bygde dette huset i {y}.
{a} og {b} går tur i parken.
I dag er det {n} grader, og det regner hele dagen.
Toget til sjøen går klokka {t} fra første spor.
{b} har {n} bøker og to svarte katter.
Søsteren min {a} lærer å spille piano.
Vet du når {b} kommer hjem?
{a} skriver et langt brev til bestemoren sin.
Butikken stenger klokka {t}, så skynd deg.
Det vokser {n} gamle trær i hagen vår.""",
    ),
    "pl": Language(
        "Anna Maria Ewa Laura Nina Sara",
        "Piotr Marcin Adam Dawid Tomasz Oskar",
        "Warszawa Łódź Gdynia Bydgoszcz Praga",
        """{a} rano o {t} pije kawę z mlekiem.
{b} czyta książkę o morzu i wielorybach.
Na stole leży {n} czerwonych jabłek.
{c} to duże i stare miasto.
W roku {y} zbudowaliśmy ten dom.
{a} i {b} spacerują po parku.
Dzisiaj jest {n} stopni i cały dzień pada deszcz.
Pociąg nad morze odjeżdża o {t} z pierwszego peronu.
{b} ma {n} książek i dwa czarne koty.
Moja siostra {a} uczy się grać na pianinie.
Czy wiesz, kiedy {b} wróci do domu?
{a} pisze długi list do swojej babci.
Sklep zamykają o {t}, więc się pospiesz.
W naszym ogrodzie rośnie {n} starych drzew.""",
    ),
    "pt": Language(
        "Ana Maria Eva Laura Nina Sara",
        "Pedro Martim Adão David Tomás Óscar",
        "Lisboa Coimbra Braga Évora Viena",
        """{a} bebe café com leite às {t} da manhã.
{b} lê um livro sobre o mar e as baleias.
Há {n} maçãs vermelhas em cima da mesa.
{c} é uma cidade grande e antiga.
No ano de {y} construímos esta casa.
{a} e {b} passeiam no parque.
Hoje estão {n} graus e chove o dia inteiro.
O comboio para o mar parte às {t} da primeira linha.
{b} tem {n} livros e dois gatos pretos.
A minha irmã {a} aprende a tocar piano.
Sabes quando é que {b} volta para casa?
{a} escreve uma longa carta à sua avó.
A loja fecha às {t}, por isso despacha-te.
No nosso jardim crescem {n} árvores velhas.""",
    ),
    "ro": Language(
        "Ana Maria Eva Laura Nina Sara",
        "Petru Martin Adam David Toma Oscar",
        "Timișoara Craiova Constanța Oradea Viena",
        """{a} bea cafea cu lapte la ora {t} dimineața.
{b} citește o carte despre mare și despre balene.
Pe masă sunt {n} mere roșii.
{c} este un oraș mare și vechi.
În anul {y} am construit această casă.
{a} și {b} se plimbă prin parc.
Astăzi sunt {n} grade și plouă toată ziua.
Trenul spre mare pleacă la ora {t} de la prima linie.
{b} are {n} cărți și două pisici negre.
Sora mea {a} învață să cânte la pian.
Știi când vine {b} acasă?
{a} scrie o scrisoare lungă bunicii sale.
Magazinul se închide la ora {t}, așa că grăbește-te.
În grădina noastră cresc {n} copaci bătrâni.""",
    ),
    "ru": Language(
        "Анна Мария Ева Лариса Нина Вера",
        "Пётр Мартин Адам Давид Фома Иван",
        "Москва Казань Самара Тверь Вена",
        """{a} утром в {t} пьёт кофе с молоком.
{b} читает книгу о море и китах.
На столе лежит {n} красных яблок.
{c} — большой и старый город.
В {y} году мы построили этот дом.
{a} и {b} гуляют в парке.
Сегодня {n} градусов, и весь день идёт дождь.
Поезд к морю отходит в {t} с первого пути.
{b} купил {n} книг и двух чёрных кошек.
Моя сестра {a} учится играть на пианино.
Ты знаешь, когда {b} придёт домой?
{a} пишет длинное письмо своей бабушке.
Магазин закрывается в {t}, поэтому поторопись.
В нашем саду растёт {n} старых деревьев.""",
    ),
    "sk": Language(
        "Anna Mária Eva Laura Nina Sára",
        "Peter Martin Adam Dávid Tomáš Oskar",
        "Bratislava Nitra Žilina Trnava Viedeň",
        """{a} pije ráno o {t} kávu s mliekom.
{b} číta knihu o mori a veľrybách.
Na stole leží {n} červených jabĺk.
{c} je veľké a staré mesto.
V roku {y} sme postavili tento dom.
{a} a {b} sa prechádzajú v parku.
Dnes je {n} stupňov a celý deň prší.
Vlak k moru odchádza o {t} z prvého nástupišťa.
{b} má {n} kníh a dve čierne mačky.
Moja sestra {a} sa učí hrať na klavíri.
Vieš, kedy príde {b} domov?
{a} píše dlhý list svojej babičke.
Obchod zatvárajú o {t}, preto sa ponáhľaj.
V našej záhrade rastie {n} starých stromov.""",
    ),
    "sv": Language(
        _WOMEN,
        _MEN,
        "Stockholm Göteborg Malmö Uppsala Wien",
        """{a} dricker kaffe med mjölk klockan {t} på morgonen.
{b} läser en bok om havet och valarna.
Det ligger {n} röda äpplen på bordet.
{c} är en stor och gammal stad.
År {y} byggde vi det här huset.
{a} och {b} promenerar i parken.
I dag är det {n} grader, och det regnar hela dagen.
Tåget till havet avgår klockan {t} från första spåret.
{b} har {n} böcker och två svarta katter.
Min syster {a} lär sig spela piano.
Vet du när {b} kommer hem?
{a} skriver ett långt brev till sin mormor.
Affären stänger klockan {t}, så skynda dig.
Det växer {n} gamla träd i vår trädgård.""",
    ),
    "zh": Language(
        "小红 小丽 美玲 秀英 晓燕 雅婷",
        "小明 建国 志强 大伟 文杰 家豪",
        "北京 上海 广州 成都 西安",
        """{a}早上{t}喝加牛奶的咖啡。
{b}正在读一本关于大海和鲸鱼的书。
桌子上有{n}个红苹果。
{c}是一座又大又古老的城市。
我们在{y}年建了这座房子。
{a}和{b}在公园里散步。
今天{n}度，下了一整天的雨。
去海边的火车{t}从一号站台出发。
{b}有{n}本书和两只黑猫。
我的姐姐{a}在学弹钢琴。
你知道{b}什么时候回家吗？
{a}给奶奶写了一封长信。
商店{t}关门，所以请快一点。
我们的花园里有{n}棵老树。""",
    ),
}
LANGUAGES = tuple(_LANGUAGES)
DIGEST = hashlib.sha256(repr((SENTENCES, _LANGUAGES)).encode()).hexdigest()[:12]
"""Changes with the sentences."""


@cache
def sentences_of(language: str) -> tuple[str, ...]:
    """The sentences of a language, all different, always the same.

    Raises:
        ValueError: for a language that there is not.
    """
    if language not in _LANGUAGES:
        raise ValueError(f"embedded:{language} is not there; embedded are {' '.join(LANGUAGES)}")
    about = _LANGUAGES[language]
    generator = random.Random(f"{language}:{SENTENCES}")
    templates = about.templates.splitlines()
    made: dict[str, None] = {}
    while len(made) < SENTENCES:
        sentence = generator.choice(templates).format(
            a=generator.choice(about.women.split()),
            b=generator.choice(about.men.split()),
            c=generator.choice(about.places.split()),
            n=generator.randint(11, 19),
            t=f"{generator.randint(6, 11)}:{generator.choice(('05', '10', '15', '20', '30', '45'))}",
            y=generator.randint(1901, 2019),
        )
        made[sentence] = None
    return tuple(made)
