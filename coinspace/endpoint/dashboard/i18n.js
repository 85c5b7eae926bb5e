// Korean and English. The browser test finds a text that is missing in one language.

import { outside } from "./format.js";
import { browser } from "./storage.js";

export const texts = {
  en: {
    skip: "Skip to the chart", assets: "Assets", asset: "Asset", index: "index", indexLine: "Index",
    searchAssets: "Search assets", noAssets: "No asset has this name.", favourite: "Favourite {asset}", views: "Pages", market: "Market", operations: "Operations",
    upRed: "Colours: rising prices are green; change to red", upGreen: "Colours: rising prices are red; change to green", history: "Index and premium", openPrice: "O", highPrice: "H", lowPrice: "L", closePrice: "C", style: "Chart style",
    range: "Range", interval: "Interval", ladder: "Summed order book", depth: "Depth by venue", venues: "Venues",
    gaps: "Gaps", pipeline: "Pipeline", keyboard: "Keyboard", close: "Close", save: "Save", key: "API key",
    keyTitle: "API key required", keyText: "This server requires an API key. The key is kept only in this tab.",
    line: "Line", candles: "Candles", premium: "Premium", premiumShort: "Premium", fiat: "{percent} against USD", day: "24 h: {low} to {high}, above {place}", kr: "Korea", gl: "Global", krConverted: "Korea (÷ FX)",
    live: "Live", connecting: "Connecting…", cut: "Disconnected", staleShort: "Stale",
    noticeCut: "The live connection is lost. Showing the last known values; reconnecting…",
    noticeStale: "The values are old: the index has not been updated since {time}.",
    noticeNull: "The index has no value now: {reason}.",
    noticeBook: "The order book is old: it has not been updated since {time}.",
    noticeSlow: "This device's clock is slow. The page uses the server's time.",
    noticeFast: "This device's clock is fast. The page uses the server's time.",
    noticeUnknown: "There is no index of {asset}. Available: {known}.",
    noticeHistory: "History is not available now; live values continue.",
    noHistory: "No stored values in this range yet; the chart starts with live values.",
    ok: "ok", degraded: "degraded", no_value: "no value", stale: "stale",
    fx: "KRW per USDT", spread: "Best bid / ask", twap: "1-minute average", confidence: "Confidence ±",
    utilised: "Depth used", limited: "limited", median: "Capped median", tradeAfter: "Profit after fees", tradeBefore: "Profit before fees", money: "₩10 million",
    sell_kr: "sell {money} in Korea", buy_kr: "buy {money} in Korea", tooThin: "less than {money} in the books", tooFew: "too few values",
    split: "markets split", held: "last rate kept", suspect: "suspect", none: "none", reach: "Distance",
    price: "Price", size: "Size", total: "Total", mid: "Mid", within: "within {percent}%",
    venue: "Venue", state: "State", age: "Age", share: "Share", spreadOne: "Spread", updates: "Updates/s", reason: "Reason",
    time: "Time", what: "Data", count: "Lost", noGaps: "No gaps found.", gapsCount: "{count} found",
    perSecond: "/s", latency: "latency", processes: "{ready} of {all} ready", noPipeline: "No process reports its health.", operatorOnly: "The processes need an operator's key.",
    unused: "not in the index", waiting: "waiting for data", updated: "updated {age} ago",
    method: "Method {version} · parameters {hash} · values in USDT, not USD",
    keyAssets: "choose an asset", keyStyle: "line or candles", keyRange: "shorter or longer range", keyTheme: "light or dark", keySearch: "search assets", keyView: "market or operations",
    premiums: "Premium", allPremiums: "All premiums", premiumCount: "{shown} of {all}", orderHeld: "order paused under the pointer", favouritesOnly: "★ only", basis: "Basis",
    againstUsdt: "vs USDT", againstUsd: "vs USD", againstUsdtTitle: "Price in Korea ÷ price abroad × KRW per USDT, less 1", againstUsdTitle: "The same at the bank rate of USD",
    change1: "1 h", change24: "24 h", change1Title: "Change in the last hour, in percentage points", change24Title: "Change in the last 24 hours, in percentage points",
    spark24: "Last 24 h", percentile: "Percentile", percentileOver: "Percentile over", percentileTitle: "Share of the time in which the premium was lower or the same: 100 is the highest",
    venuePair: "Buy → sell", venuePairTitle: "The pair of exchanges that leaves the most of {money}", executable: "Left of {money}", executableTitle: "What a trade of {money} leaves after both order books and the fees of both exchanges",
    capacity: "Pays up to", capacityTitle: "The size at which nothing is left", wallets: "Wallets", walletsTitle: "Whether the coin can be withdrawn where it is bought and deposited where it is sold", walletOpen: "open", walletPartial: "partly", walletClosed: "closed", walletUnknown: "unknown", deposits: "deposits", withdrawals: "withdrawals", trading_suspended: "trading suspended", trading_limited: "trading limited",
    krPrice: "Price in Korea", otherCoin: "not the same coin?", caution: "caution", fresh: "now", noUsd: "vs USD: no bank rate now", oldSince: "not updated since {time}", noMarks: "No favourites yet: press ★ in a row.",
    noticePremiums: "The premiums are old: they have not been updated since {time}.", feesNote: "Fees: {fees}.", noPremiums: "No premium has arrived yet.",
    alerts: "Alerts", alertsCount: "Alerts · {count}", alertKind: "When", alertLevel: "Premium, %", alertPlace: "Percentile, 0 to 100", addAlert: "Add", remove: "Remove", noRules: "No alerts yet.", lastAlerts: "Last alerts",
    alertsNote: "Alerts are kept in this browser and are checked while this page is open. Percentiles are those of the last 24 hours.",
    sound: "Sound", notifications: "Notifications", noNotifications: "No notifications in this browser", blockedNotifications: "Notifications are blocked", badLevel: "Enter a number.", tooManyRules: "At most {limit} alerts are possible.",
    alert_above: "premium at or above", alert_below: "premium at or below", alert_placeAbove: "percentile at or above", alert_placeBelow: "percentile at or below", alert_down: "exchange down", alert_coin: "vs USDT", alert_fiat: "vs USD",
    everyAsset: "any asset", everyExchange: "any exchange", exchange: "Exchange", andMore: "{count} more",
    ruleAbove: "{name} {basis} at or above {level}", ruleBelow: "{name} {basis} at or below {level}", rulePlaceAbove: "{name} percentile {basis} at or above {level}", rulePlaceBelow: "{name} percentile {basis} at or below {level}", ruleDown: "{name} down",
    keyPremium: "premiums of all assets",
    trades: "What a trade leaves, after both books and both fees", amount: "Size", leftKrw: "Left, ₩", way_sell_kr: "Buy abroad, sell in Korea", way_buy_kr: "Buy in Korea, sell abroad",
    notInBooks: "more than the books have", noSize: "pays at no size", noTrades: "Not known now: both order books and a rate are needed.", fee: "fee {fee}",
    keyLanguage: "한국어 / English", keyHelp: "this help", themeDark: "Dark", themeLight: "Light",
    states: { ok: "ok", synced: "live", subscribed: "subscribed", connecting: "connecting", buffering: "buffering", stale: "stale",
      quarantined: "quarantined", disconnected: "disconnected", halted: "halted", unknown: "unknown",
      ready: "ready", starting: "starting", degraded: "degraded", stopping: "stopping", down: "down",
      open: "open", filled: "filled", lost: "lost", dead: "refused" },
    reasons: { operator: "excluded by an operator", disconnected: "disconnected", halted: "trading halted", resyncing: "resynchronising",
      delayed: "no update for too long", no_fx: "no exchange rate", empty: "empty book", crossed: "crossed book", frozen: "frozen book",
      deviating: "price deviates", too_few_venues: "too few venues", insufficient_depth: "too little depth",
      regime_split: "Korean and global prices diverge", not_computed: "tick not computed",
      "not received": "not received from the bus", bus: "lost on the bus", no_regional_value: "no regional value" },
  },
  ko: {
    skip: "차트로 건너뛰기", assets: "종목", asset: "종목", index: "지수", indexLine: "지수",
    searchAssets: "종목 검색", noAssets: "검색 결과가 없습니다.", favourite: "{asset} 관심 종목", views: "화면", market: "시세", operations: "운영",
    upRed: "색상: 상승 초록, 빨강으로 바꾸기", upGreen: "색상: 상승 빨강, 초록으로 바꾸기", history: "지수와 프리미엄", openPrice: "시", highPrice: "고", lowPrice: "저", closePrice: "종", style: "차트 종류",
    range: "기간", interval: "봉 단위", ladder: "통합 호가", depth: "거래소별 누적 잔량", venues: "거래소",
    gaps: "데이터 누락", pipeline: "파이프라인", keyboard: "단축키", close: "닫기", save: "저장", key: "API 키",
    keyTitle: "API 키가 필요합니다", keyText: "이 서버는 키를 요구합니다. 키는 이 탭에만 보관됩니다.",
    line: "라인", candles: "캔들", premium: "김치 프리미엄", premiumShort: "김프", fiat: "은행 환율 기준 {percent}", day: "24시간 {low} ~ {high} · {place}보다 높음", kr: "한국", gl: "해외", krConverted: "한국 (÷ 환율)",
    live: "실시간", connecting: "연결 중…", cut: "연결 끊김", staleShort: "지연",
    noticeCut: "실시간 연결이 끊겼습니다. 마지막 값을 표시하며 자동으로 다시 연결합니다…",
    noticeStale: "값이 오래되었습니다: {time} 이후 지수가 갱신되지 않았습니다.",
    noticeNull: "지금은 지수가 산출되지 않습니다: {reason}",
    noticeBook: "호가가 오래되었습니다: {time} 이후 갱신되지 않았습니다.",
    noticeSlow: "이 기기의 시계가 느립니다. 서버 시각을 사용합니다.",
    noticeFast: "이 기기의 시계가 빠릅니다. 서버 시각을 사용합니다.",
    noticeUnknown: "{asset} 지수는 제공되지 않습니다. 제공 지수: {known}",
    noticeHistory: "지금은 과거 데이터를 불러올 수 없습니다. 실시간 값은 계속 표시됩니다.",
    noHistory: "이 기간에 저장된 값이 아직 없습니다. 실시간 값부터 차트에 표시됩니다.",
    ok: "정상", degraded: "일부 제외", no_value: "값 없음", stale: "지연",
    fx: "USDT/KRW 환율", spread: "최우선 매수 / 매도 호가", twap: "1분 평균가", confidence: "신뢰 구간 ±",
    utilised: "반영 잔량", limited: "제한됨", median: "보정 중앙값", tradeAfter: "차익 (수수료 차감)", tradeBefore: "차익 (수수료 전)", money: "1,000만 원",
    sell_kr: "한국 매도 {money}", buy_kr: "한국 매수 {money}", tooThin: "호가 잔량 {money} 미만", tooFew: "데이터 부족",
    split: "시장 괴리", held: "직전 환율 유지", suspect: "확인 필요", none: "없음", reach: "호가 범위",
    price: "가격", size: "잔량", total: "누적 잔량", mid: "중간가", within: "{percent}% 이내",
    venue: "거래소", state: "상태", age: "경과", share: "비중", spreadOne: "스프레드", updates: "초당 갱신", reason: "사유",
    time: "시각", what: "대상", count: "누락", noGaps: "누락된 데이터가 없습니다.", gapsCount: "{count}건",
    perSecond: "/초", latency: "지연 시간", processes: "{all}개 중 {ready}개 정상", noPipeline: "상태를 보고하는 프로세스가 없습니다.", operatorOnly: "프로세스 상태는 운영자 키로만 볼 수 있습니다.",
    unused: "지수 미포함", waiting: "데이터 대기 중", updated: "{age} 전 갱신",
    method: "산출 방법 {version} · 파라미터 {hash} · USDT 기준 (USD 아님)",
    keyAssets: "종목 선택", keyStyle: "라인 / 캔들 전환", keyRange: "기간 축소 / 확대", keyTheme: "라이트 / 다크 모드 전환", keySearch: "종목 검색", keyView: "시세 / 운영 전환",
    premiums: "김프", allPremiums: "전체 김치 프리미엄", premiumCount: "{all}개 중 {shown}개", orderHeld: "마우스를 올린 동안 순서 고정", favouritesOnly: "★ 관심만", basis: "기준",
    againstUsdt: "테더 기준", againstUsd: "환율 기준", againstUsdtTitle: "국내가 ÷ (해외가 × USDT/KRW) - 1", againstUsdTitle: "은행 고시 환율(USD/KRW)로 계산한 김프",
    change1: "1시간", change24: "24시간", change1Title: "1시간 전 대비 변화 (%p)", change24Title: "24시간 전 대비 변화 (%p)",
    spark24: "24시간 추이", percentile: "백분위", percentileOver: "백분위 기간", percentileTitle: "현재 김프가 기간 내 몇 % 시점보다 높거나 같은지: 100이면 최고",
    venuePair: "매수 → 매도", venuePairTitle: "{money} 기준 가장 유리한 거래소 조합", executable: "{money} 차익", executableTitle: "{money} 체결 시 양쪽 호가와 수수료를 뺀 차익",
    capacity: "손익분기 금액", capacityTitle: "차익이 0이 되는 체결 금액", wallets: "입출금", walletsTitle: "매수 거래소 출금·매도 거래소 입금 가능 여부", walletOpen: "가능", walletPartial: "일부 가능", walletClosed: "중단", walletUnknown: "미확인", deposits: "입금", withdrawals: "출금", trading_suspended: "거래 정지", trading_limited: "거래 제한",
    krPrice: "국내가", otherCoin: "동일 코인 아님?", caution: "유의", fresh: "실시간", noUsd: "환율 기준: 현재 고시 환율 없음", oldSince: "{time} 이후 갱신 없음", noMarks: "관심 종목이 없습니다. ★을 눌러 추가하세요.",
    noticePremiums: "김프가 오래되었습니다: {time} 이후 갱신되지 않았습니다.", feesNote: "수수료: {fees}", noPremiums: "아직 김프 데이터가 없습니다.",
    alerts: "알림", alertsCount: "알림 · {count}", alertKind: "조건", alertLevel: "김프 (%)", alertPlace: "백분위 (0~100)", addAlert: "추가", remove: "삭제", noRules: "등록된 알림이 없습니다.", lastAlerts: "최근 알림",
    alertsNote: "알림은 이 브라우저에 저장되며, 이 페이지가 열려 있는 동안 작동합니다. 백분위는 최근 24시간 기준입니다.",
    sound: "소리", notifications: "브라우저 알림", noNotifications: "이 브라우저는 알림 미지원", blockedNotifications: "브라우저 알림 차단됨", badLevel: "숫자를 입력하세요.", tooManyRules: "알림은 {limit}개까지 등록할 수 있습니다.",
    alert_above: "김프 이상", alert_below: "김프 이하", alert_placeAbove: "백분위 이상", alert_placeBelow: "백분위 이하", alert_down: "거래소 연결 끊김", alert_coin: "테더 기준", alert_fiat: "환율 기준",
    everyAsset: "전체 종목", everyExchange: "전체 거래소", exchange: "거래소", andMore: "외 {count}개",
    ruleAbove: "{name} {basis} 김프 {level} 이상", ruleBelow: "{name} {basis} 김프 {level} 이하", rulePlaceAbove: "{name} {basis} 백분위 {level} 이상", rulePlaceBelow: "{name} {basis} 백분위 {level} 이하", ruleDown: "{name} 연결 끊김",
    keyPremium: "전체 김프",
    trades: "체결 금액별 차익 (양쪽 호가·수수료 반영)", amount: "금액", leftKrw: "차익 (원)", way_sell_kr: "해외 매수 → 국내 매도", way_buy_kr: "국내 매수 → 해외 매도",
    notInBooks: "호가 잔량 부족", noSize: "차익 없음", noTrades: "양쪽 호가와 환율이 있어야 계산됩니다.", fee: "수수료 {fee}",
    keyLanguage: "English / 한국어", keyHelp: "도움말", themeDark: "다크 모드", themeLight: "라이트 모드",
    states: { ok: "정상", synced: "실시간", subscribed: "구독됨", connecting: "연결 중", buffering: "버퍼링", stale: "지연",
      quarantined: "격리됨", disconnected: "연결 끊김", halted: "거래 정지", unknown: "알 수 없음",
      ready: "정상", starting: "시작 중", degraded: "일부 문제", stopping: "종료 중", down: "중단",
      open: "복구 중", filled: "복구됨", lost: "유실", dead: "거부됨" },
    reasons: { operator: "운영자가 제외", disconnected: "연결 끊김", halted: "거래 정지", resyncing: "재동기화 중",
      delayed: "갱신 지연", no_fx: "환율 없음", empty: "호가 없음", crossed: "호가 역전", frozen: "호가 멈춤",
      deviating: "가격 이탈", too_few_venues: "유효 거래소 부족", insufficient_depth: "호가 잔량 부족",
      regime_split: "국내외 가격 괴리", not_computed: "산출되지 않음",
      "not received": "버스에서 미수신", bus: "버스에서 유실", no_regional_value: "지역 지수 없음" },
  },
};

let language = ["ko", "en"].find((one) => one === browser.get("language")) ?? (navigator.language.startsWith("ko") ? "ko" : "en");

/** The text of a key in the chosen language, with {name} filled in. */
export function t(key, values = {}) {
  let text = texts[language][key] ?? key;
  for (const [name, value] of Object.entries(values)) text = text.replace(`{${name}}`, () => value);
  return text;
}

const known = (table, name) => (Object.hasOwn(table, name) ? table[name] : outside(name));

/** The text of a state; an unknown state is shown by its name. */
export const stateText = (state) => known(texts[language].states, state);

/** The state of a wallet, or of the way between two wallets. */
export const walletText = (state) => t({ open: "walletOpen", partial: "walletPartial", closed: "walletClosed" }[state] ?? "walletUnknown");

/** The text of a reason; an unknown reason is shown as it was sent. */
export const reasonText = (reason) => (reason ? known(texts[language].reasons, reason) : "");

export const currentLanguage = () => language;

/** Choose a language and write every marked text of the page. */
export function setLanguage(chosen) {
  language = chosen;
  browser.set("language", chosen);
  applyTexts();
}

/** Write every marked text of the page. */
export function applyTexts() {
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
}
