// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/page.hpp"

#include "plot/svg.hpp"

namespace kokomoe::plot {

namespace {

// The colours k0 to k6 differ for those who see no red, no green or no blue, and stand out from the
// ground; s and v are scales from pale to strong and around a neutral middle.
constexpr const char* style_sheet = R"css(
:root{--ground:#fff;--card:#fff;--ink:#1c2127;--soft:#5b6570;--rule:#d9dee3;--grid:#e9ecef;--wash:#f5f7f8;
--k0:#1940c9;--k1:#e55418;--k2:#15794e;--k3:#ce54a2;--k4:#613b00;--k5:#2699f6;--k6:#494657;
--s0:#eef3f8;--s1:#d3e2f0;--s2:#b3cee6;--s3:#8cb6d9;--s4:#639ac9;--s5:#3d7db5;--s6:#22629b;--s7:#124a7d;--s8:#08315a;
--v0:#123f6b;--v1:#2f6ea5;--v2:#74a6ce;--v3:#bcd5e8;--v4:#eceeef;--v5:#f6d0ad;--v6:#eb9d5c;--v7:#cc6518;--v8:#8a3a00}
@media screen and (prefers-color-scheme:dark){:root{--ground:#14181d;--card:#1a1f26;--ink:#e4e8ec;--soft:#9aa5b1;
--rule:#36404b;--grid:#29313a;--wash:#1f262e;
--k0:#2c79f8;--k1:#d9661c;--k2:#31d885;--k3:#f185de;--k4:#f5ee6a;--k5:#ccfff1;--k6:#8c7479;
--s0:#1d2630;--s1:#1f3448;--s2:#234460;--s3:#28567a;--s4:#316b98;--s5:#4283b5;--s6:#629fcd;--s7:#92c0e2;--s8:#cfe5f6;
--v0:#9ccbf2;--v1:#5f9fd3;--v2:#3a709f;--v3:#2a465f;--v4:#333a42;--v5:#5e442d;--v6:#99602c;--v7:#d98338;--v8:#ffc38a}}
.k0{--c:var(--k0)}.k1{--c:var(--k1)}.k2{--c:var(--k2)}.k3{--c:var(--k3)}.k4{--c:var(--k4)}.k5{--c:var(--k5)}.k6{--c:var(--k6)}
.d1{--d:7 3}.d2{--d:2 2.6}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;color-scheme:light dark}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI","Helvetica Neue",Arial,"Liberation Sans",sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 24px 48px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.3;margin:2.6rem 0 .5rem;padding-top:.7rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.2rem 0 .3rem;overflow-wrap:anywhere}
p{margin:.35rem 0;max-width:78ch}
.soft,figcaption span,.missing,.key,footer{color:var(--soft);font-size:.875rem}
.missing{padding:.5rem .75rem;background:var(--wash);border-left:3px solid var(--rule)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:22px 28px;margin-top:.8rem}
.plots.small{grid-template-columns:repeat(auto-fit,minmax(min(100%,350px),1fr))}
figure{margin:0;min-width:0;display:flex;flex-direction:column;justify-content:space-between}
.plots>figure,.plots>div{max-width:760px}
.key{max-width:none}
figcaption{margin-bottom:.3rem;line-height:1.35}
figcaption span{display:block}
svg.plot,svg.heat,svg.bars{display:block;width:100%;height:auto;overflow:visible}
svg text{font:13px system-ui,-apple-system,"Segoe UI","Helvetica Neue",Arial,"Liberation Sans",sans-serif;fill:var(--ink)}
svg .label{fill:var(--soft)}svg .mid{text-anchor:middle}svg .end{text-anchor:end}
svg .number{font-variant-numeric:tabular-nums}
svg path.grid{stroke:var(--grid);stroke-width:1;fill:none}
svg path.minor{stroke-width:.5}
svg path.axis,svg path.tick{stroke:var(--soft);stroke-width:1;fill:none}
svg path.reference{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:5 4;fill:none}
svg path.spread{stroke:var(--ink);stroke-width:1.4;fill:none}
path.line,path.thin,path.points{fill:none;stroke:var(--c);stroke-linejoin:round;stroke-linecap:round}
path.line{stroke-width:2;stroke-dasharray:var(--d,none)}
path.thin{stroke-width:1;opacity:.38}
path.points{stroke-width:1.4;stroke-dasharray:var(--d,none);opacity:.85}
path.band{fill:var(--c);opacity:.18;stroke:none}
path.marks{stroke:var(--c);stroke-width:1.6;fill:none}
path.bar{fill:var(--c)}.d1.bar{opacity:.7}.d2.bar{opacity:.45}
.dots circle{fill:var(--card);stroke:var(--c);stroke-width:1.6}
path.cell{stroke:none;shape-rendering:crispEdges}
.s0{fill:var(--s0)}.s1{fill:var(--s1)}.s2{fill:var(--s2)}.s3{fill:var(--s3)}.s4{fill:var(--s4)}.s5{fill:var(--s5)}.s6{fill:var(--s6)}.s7{fill:var(--s7)}.s8{fill:var(--s8)}
.v0{fill:var(--v0)}.v1{fill:var(--v1)}.v2{fill:var(--v2)}.v3{fill:var(--v3)}.v4{fill:var(--v4)}.v5{fill:var(--v5)}.v6{fill:var(--v6)}.v7{fill:var(--v7)}.v8{fill:var(--v8)}
.key .bound{font-variant-numeric:tabular-nums}.box{vertical-align:-1px;outline:1px solid var(--rule)}
.swatch{vertical-align:middle;margin-right:.35rem;flex:none}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;margin:.5rem 0;padding:0;font-size:.9rem}
.legend li{display:inline-flex;align-items:center;overflow-wrap:anywhere}
.legend li[role=button]{cursor:pointer;border-radius:3px}
.legend li.off{opacity:.35;text-decoration:line-through}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:.32rem .7rem;text-align:right;border-bottom:1px solid var(--rule);vertical-align:top;white-space:nowrap}
th{font-weight:600}thead th{color:var(--soft);font-size:.82rem;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;padding-left:0}
.text td,.text th{text-align:left;white-space:normal;overflow-wrap:break-word;max-width:44ch}
.text td{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.82rem}
.text th{white-space:nowrap}
td.best{font-weight:700}td small{color:var(--soft);font-weight:400}
details{margin:.5rem 0;border:1px solid var(--rule);border-radius:5px;padding:.45rem .8rem}
summary{cursor:pointer;font-weight:600;overflow-wrap:anywhere}
pre{margin:.5rem 0;font:.8rem/1.45 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.sample{margin:.6rem 0;padding:.1rem 0 .1rem .8rem;border-left:3px solid var(--c,var(--rule));white-space:pre-wrap;overflow-wrap:anywhere;max-width:90ch}
.sample b{display:block;font-size:.8rem;color:var(--soft);font-weight:600}
ul.notes{margin:.6rem 0;padding:.5rem .75rem .5rem 1.8rem;background:var(--wash);border-left:3px solid var(--k1);font-size:.9rem}
footer{margin-top:3rem;border-top:1px solid var(--rule);padding-top:.7rem}
#tip{position:fixed;display:none;pointer-events:none;background:var(--card);border:1px solid var(--rule);border-radius:5px;
padding:.35rem .6rem;font-size:.8rem;line-height:1.4;box-shadow:0 2px 10px rgba(0,0,0,.18);z-index:9;font-variant-numeric:tabular-nums;max-width:min(24rem,90vw)}
path.cursor{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}
@media (max-width:600px){main{padding:18px 14px 32px}svg text{font-size:18px}th,td{padding:.3rem .5rem}}
@media print{main{max-width:none;padding:0}body{font-size:11pt}h2,h3,figcaption,summary,.legend,.key{break-after:avoid}figure,tr,.sample{break-inside:avoid}
.plots,.plots.small{grid-template-columns:1fr 1fr;gap:12px 18px}.scroll{overflow:visible}th,td{white-space:normal;padding:.2rem .4rem}
details::details-content{content-visibility:visible;display:block;block-size:auto}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
)css";

constexpr const char* script = R"js(
(function(){
"use strict";
var hidden={},tip=document.createElement("div");tip.id="tip";document.body.appendChild(tip);
var rule=document.createElement("style");document.head.appendChild(rule);
function styleOf(e){var m=/(?:^|\s)r(\d+)(?:\s|$)/.exec(e.getAttribute("class")||"");return m?m[1]:"";}
function toggle(n){hidden[n]=!hidden[n];
 rule.textContent=Object.keys(hidden).filter(function(k){return hidden[k];})
  .map(function(k){return "svg .r"+k+",.runs .r"+k+"{display:none}";}).join("");
 document.querySelectorAll(".legend li").forEach(function(li){var off=!!hidden[li.dataset.style];
  li.classList.toggle("off",off);li.setAttribute("aria-pressed",String(!off));});}
document.querySelectorAll(".legend li").forEach(function(li){
 li.setAttribute("role","button");li.setAttribute("aria-pressed","true");li.tabIndex=0;li.title="hide or show";
 li.addEventListener("click",function(){toggle(li.dataset.style);});
 li.addEventListener("keydown",function(e){if(e.key==="Enter"||e.key===" "){e.preventDefault();toggle(li.dataset.style);}});});
function text(v){if(!isFinite(v))return "\u2013";var a=Math.abs(v);
 if(a!==0&&(a<1e-3||a>=1e7))return v.toExponential(2);return String(+v.toPrecision(4));}
function prepare(svg){
 if(svg.curves)return;
 svg.curves=[];
 svg.querySelectorAll("path.curve").forEach(function(p){
  if(p.dataset.look==="band")return;
  var at=[],re=/[ML](-?[\d.]+) (-?[\d.]+)/g,d=p.getAttribute("d"),m;
  while((m=re.exec(d)))at.push([+m[1],+m[2]]);
  if(at.length)svg.curves.push({path:p,at:at,style:styleOf(p)});});}
function value(svg,axis,t){var lo=+svg.dataset[axis+"0"],hi=+svg.dataset[axis+"1"];
 return svg.dataset.log.indexOf(axis)<0?lo+t*(hi-lo):lo*Math.pow(hi/lo,t);}
document.querySelectorAll("svg.plot").forEach(function(svg){
 var line=null;
 function leave(){tip.style.display="none";if(line){line.remove();line=null;}}
 svg.addEventListener("pointerleave",leave);
 svg.addEventListener("pointermove",function(e){
  prepare(svg);
  var box=svg.dataset.box.split(" ").map(Number),view=svg.viewBox.baseVal,r=svg.getBoundingClientRect();
  var x=(e.clientX-r.left)/r.width*view.width;
  if(x<box[0]-4||x>box[1]+4)return leave();
  var rows=[],near=null;
  svg.curves.forEach(function(c){
   if(hidden[c.style])return;
   var lo=0,hi=c.at.length-1;
   while(hi-lo>1){var mid=(lo+hi)>>1;if(c.at[mid][0]<x)lo=mid;else hi=mid;}
   var p=Math.abs(c.at[lo][0]-x)<=Math.abs(c.at[hi][0]-x)?c.at[lo]:c.at[hi];
   if(Math.abs(p[0]-x)>24)return;
   if(near===null||Math.abs(p[0]-x)<Math.abs(near-x))near=p[0];
   rows.push([c,value(svg,"y",(box[3]-p[1])/(box[3]-box[2]))]);});
  if(near===null)return leave();
  tip.textContent="";
  var head=document.createElement("b");
  head.textContent=text(value(svg,"x",(near-box[0])/(box[1]-box[0])));tip.appendChild(head);
  rows.slice(0,24).forEach(function(row){
   var div=document.createElement("div"),dot=document.createElement("span");
   dot.textContent="\u25a0 ";dot.style.color=getComputedStyle(row[0].path).stroke;div.appendChild(dot);
   div.appendChild(document.createTextNode(row[0].path.dataset.name+"  "+text(row[1])));tip.appendChild(div);});
  tip.style.display="block";
  var w=tip.offsetWidth,h=tip.offsetHeight;
  tip.style.left=Math.max(4,e.clientX+16+w>innerWidth?e.clientX-w-12:e.clientX+16)+"px";
  tip.style.top=Math.max(4,Math.min(innerHeight-h-4,e.clientY+14))+"px";
  if(!line){line=document.createElementNS(svg.namespaceURI,"path");line.setAttribute("class","cursor");svg.appendChild(line);}
  line.setAttribute("d","M"+near+" "+box[2]+"V"+box[3]);});});
addEventListener("beforeprint",function(){document.querySelectorAll("details").forEach(function(d){d.open=true;});});
})();
)js";

}  // namespace

std::string legend(const std::vector<std::string>& names) {
  std::string html = "<ul class=\"legend\">";
  for (std::size_t i = 0; i < names.size(); ++i) {
    const int style = static_cast<int>(i);
    html += "<li data-style=\"" + std::to_string(i) + "\">" + swatch(style) + "<span>" +
            escape(names[i]) + "</span></li>";
  }
  return html + "</ul>\n";
}

std::string html_page(const std::string& title, const std::string& body) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
         escape(title) + "</title>\n<style>" + style_sheet + "</style>\n</head>\n<body>\n<main>\n" +
         body + "</main>\n<script>" + script + "</script>\n</body>\n</html>\n";
}

}  // namespace kokomoe::plot
