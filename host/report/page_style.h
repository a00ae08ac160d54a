#pragma once

#include <string_view>

namespace cbtm::report {

/// The page's style sheet. Series colours after Okabe and Ito, who chose them to be told apart by colour-blind readers;
/// darkened for a white page (3:1 and more against it), lightened for a dark one.
inline constexpr std::string_view kPageStyle = R"css(
:root{color-scheme:light dark;--page:#fff;--ink:#16191d;--soft:#565d66;--rule:#d9dde2;--panel:#f4f6f8;--accent:#0067a3;
--heat:0 103 163;--caution:#8a3b00;
--c0:#0072b2;--c1:#d55e00;--c2:#00815b;--c3:#c2619a;--c4:#a87900;--c5:#3b96cf;--c6:#5b3a99;--c7:#6b6b6b}
@media screen and (prefers-color-scheme:dark){:root{--page:#14171b;--ink:#e8eaed;--soft:#a3abb5;--rule:#343a42;
--panel:#1d2228;--accent:#6cc0f5;--heat:40 130 190;--caution:#ffb27a;
--c0:#4ba3e3;--c1:#ff8a3d;--c2:#2fc79a;--c3:#f09ac9;--c4:#f2cb4a;--c5:#9ad7ff;--c6:#b39dff;--c7:#b9b9b9}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:54rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;overflow-wrap:anywhere}
header p,figcaption,#stages td,.legend span,footer{color:var(--soft)}
h1{font-size:1.5rem;line-height:1.2;margin:0}
header p{margin:.2rem 0 1rem}
nav{font-size:.9rem;margin-bottom:1rem}
nav a{margin-right:1rem;white-space:nowrap}
a{color:var(--accent)}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem;border-top:1px solid var(--rule);padding-top:1rem}
h3{font-size:1rem;margin:1.5rem 0 .4rem}
.verdict{font-size:1.25rem;line-height:1.4;margin:1rem 0}
.caution,.caution strong{color:var(--caution)}
#missing{border:1px solid var(--caution);border-radius:6px;padding:0 1rem;margin:1.5rem 0}
#missing h2{border:0;margin-top:.8rem;padding:0;font-size:1.05rem}
.scroll{overflow-x:auto;margin:.8rem 0}
.scroll:focus-visible{outline:2px solid var(--accent)}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .7rem .28rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule);overflow-wrap:normal}
thead th,thead td{color:var(--soft);font-weight:600;vertical-align:bottom}
tbody th{font-weight:400;white-space:nowrap}
.sentences tbody th{white-space:normal;min-width:15rem}.texts strong{white-space:nowrap}
.numbers td,.numbers thead th:not(:first-child),.right{text-align:right}
td.right,.numbers td,#stages td{white-space:nowrap}
tr.best th,tr.best td{font-weight:700}
.share{min-width:9rem;white-space:nowrap}
.share>span:last-child{margin-left:.5rem}
.bar{display:inline-block;width:5rem;height:.7em;background:var(--panel);border-radius:2px}
.bar>span{display:block;height:100%;background:var(--accent);border-radius:2px}
.terms{min-width:11rem}
.heat th,.heat td{padding:.3rem .5rem;text-align:right;border:2px solid var(--page);white-space:nowrap}
.heat tbody th,.heat thead th:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
.heat td[style]{background:rgb(var(--heat)/calc(var(--near)*.5))}
.heat td.best{font-weight:700;outline:2px solid var(--ink);outline-offset:-3px}
.heat .compare tr:first-child>*{border-top:2px solid var(--rule)}
figure{margin:1.2rem 0 1.8rem}
figcaption{font-size:.88rem;margin-top:.3rem}
.chart{display:block;width:100%;height:auto}
.narrow{display:none}
.map>.chart{max-width:40rem;background:var(--panel);border-radius:6px}
svg text{font:12px system-ui,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;fill:var(--soft)}
svg .halo{font-size:15px;font-weight:700;fill:var(--ink);stroke:var(--panel);stroke-width:4px;paint-order:stroke}
svg .value{fill:var(--ink);stroke:var(--page);stroke-width:4px;paint-order:stroke}
.grid{stroke:var(--rule);fill:none}
.hair{stroke:var(--soft);stroke-width:.5;fill:none;opacity:.6}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round}
.crowded .line{stroke-width:1}
.chart .line.dense{stroke-width:2.6}
.d1{stroke-dasharray:6 3}.d2{stroke-dasharray:2 2}.d3{stroke-dasharray:9 3 2 3}
.point{stroke:none;opacity:.85}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}
.line.c4{stroke:var(--c4)}.line.c5{stroke:var(--c5)}.line.c6{stroke:var(--c6)}.line.c7{stroke:var(--c7)}
.point.c0{fill:var(--c0)}.point.c1{fill:var(--c1)}.point.c2{fill:var(--c2)}.point.c3{fill:var(--c3)}
.point.c4{fill:var(--c4)}.point.c5{fill:var(--c5)}.point.c6{fill:var(--c6)}.point.c7{fill:var(--c7)}
.line.dense{stroke:var(--ink)}.point.dense{fill:var(--ink)}
.line.ensemble{stroke:var(--accent);stroke-width:2.2}.point.ensemble{fill:var(--accent)}
.key{vertical-align:-1px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;margin:.5rem 0;font-size:.88rem}
ul{padding-left:1.2rem}
pre{background:var(--panel);padding:.6rem .8rem;border-radius:6px;white-space:pre-wrap;font-size:.82rem;margin:.4rem 0}
footer{margin-top:3rem;font-size:.85rem}
@media screen and (max-width:600px){.wide{display:none}.narrow{display:block}svg .halo{font-size:22px}
body{font-size:15px}.verdict{font-size:1.1rem}}
@media print{@page{margin:14mm}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{font-size:10pt;padding:0;max-width:none}nav{display:none}.scroll{overflow:visible}
figure,tr,pre,.verdict{break-inside:avoid}h2,h3,thead{break-after:avoid}
table{font-size:8.5pt}.heat th{position:static!important}.terms{min-width:0}.map>.chart{max-width:12cm}
.heat.several{font-size:6.5pt}.heat.several th,.heat.several td{padding:.15rem}
.heat.many{font-size:3pt}.heat.many th,.heat.many td{padding:0 1px;border-width:0}.heat.many td.best{outline-width:.5px;outline-offset:-.5px}
.heat.many .key{width:4px;height:4px}}
)css";

}  // namespace cbtm::report
