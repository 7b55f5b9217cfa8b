"""The languages that translation models name by a token: how each family writes it, where it stands, and which there are.

Tables alone; how a text gets its token is `languages`.
"""

from typing import NamedTuple


class Habit(NamedTuple):
    """How a class of tokenizers names languages.

    Args:
        form: a language's token, with `{}` for its code.
        after: whether it stands behind a text's end, or in front of the text.
        default: the language of texts where nobody says.
    """

    form: str
    after: bool
    default: str


HABITS = {
    "M2M100Tokenizer": Habit("__{}__", False, "en"),
    "MBartTokenizer": Habit("{}", True, "en_XX"),
    "MBart50Tokenizer": Habit("{}", False, "en_XX"),
    "NllbTokenizer": Habit("{}", False, "eng_Latn"),
}
_MBART = """
ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO
ru_RU si_LK tr_TR vi_VN zh_CN
"""
_MBART50 = """
af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN
th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
"""
_M2M100 = """
af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig
ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so
sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu
"""
# The tokens that follow a vocabulary, in the order of their ids. NLLB's are in its tokenizer.json.
TOKENS = {
    "M2M100Tokenizer": tuple(f"__{code}__" for code in _M2M100.split()),
    "MBartTokenizer": tuple(_MBART.split()),
    "MBart50Tokenizer": (*_MBART.split(), *_MBART50.split()),
}
