"""Mask R-CNN (He et al., ICCV 2017, arXiv 1703.06870) with a feature pyramid, as mmdet has it.

model.py      MaskRCNN, the task model: loss, detections
mmdet.py      what its parts are called in mmdet's checkpoints
head.py       the network behind the backbone, of torchvision's modules
proposals.py  the region proposal network: anchors and loss
regions.py    what is made of the proposals: classes, boxes, masks
coding.py     boxes as differences to other boxes
paste.py      masks of detections in the image's pixels
"""
