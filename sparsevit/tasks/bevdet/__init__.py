"""The parts of BEVDet (Huang et al., 2021, arXiv 2112.11790): from camera features to boxes.

neck.py     two stages of the backbone to one feature map
view.py     feature maps of all cameras to one map seen from above (lift, splat)
encoder.py  that map through a small ResNet
center.py   heat maps and boxes on it (CenterPoint)
targets.py  what the maps should be, and the loss; decode.py: the boxes that they say

Shapes: B samples, V cameras, C channels, D depths, h x w cells of an image's feature map, Y x X cells
of the map from above. Names of parameters are those of the released code.
"""
